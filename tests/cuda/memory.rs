//! Device memory: copies, views, zeroing and sums touch what they are given and nothing else.

use pr_lstm::Cpu;
use pr_lstm::backend::Backend;

use crate::common::device::{Device, Storage};
use crate::common::{assert_same_bits, narrow, normals, on_device, random};

/// `to[2..] += from[1..]`, then `to[5..7] = 0`.
fn sums<B: Backend>(backend: &B, from: &[f32], to: &[f32]) -> Vec<f32> {
    let (from_len, to_len) = (from.len(), to.len());
    let (from, mut to) = (on_device(backend, from), on_device(backend, to));
    let len = (from_len - 1).min(to_len - 2);
    backend.add(backend.view(&from, 1, len), backend.view_mut(&mut to, 2, len)).unwrap();
    backend.zero(backend.view_mut(&mut to, 5, 2)).unwrap();
    let mut host = vec![f32::NAN; to_len];
    backend.download(backend.view(&to, 0, to_len), &mut host).unwrap();
    host
}

#[test]
fn sums_and_zeros_are_those_of_the_cpu() {
    let mut random = random(800);
    let device = Device::take();
    let backend = device.backend(Storage::Bf16);
    for len in [9, 255, 257, 258, 1000] {
        let [from, to] = [(); 2].map(|()| narrow(&normals(&mut random, len, 1.0)));
        let expected = sums(&Cpu::new(), &from, &to);
        assert!(expected != to && expected[..2] == to[..2]);
        assert_same_bits(&sums(&backend, &from, &to), &expected, &format!("{len} elements"));
    }
}

#[test]
fn a_copy_into_a_view_leaves_the_rest() {
    let device = Device::take();
    let backend = device.backend(Storage::Bf16);
    let mut buffer = on_device(&backend, &[7u32; 40]);
    backend.upload(&[1, 2, 3], backend.view_mut(&mut buffer, 11, 3)).unwrap();
    let mut host = [0; 40];
    backend.download(backend.view(&buffer, 0, 40), &mut host).unwrap();
    let expected: [u32; 40] = std::array::from_fn(|i| if (11..14).contains(&i) { i as u32 - 10 } else { 7 });
    assert_eq!(host, expected);
    let mut part = [0; 3];
    backend.download(backend.view(&buffer, 10, 3), &mut part).unwrap();
    assert_eq!(part, [7, 1, 2]);
    // What is allocated is zero.
    let fresh = backend.alloc::<u32>(40).unwrap();
    backend.download(backend.view(&fresh, 0, 40), &mut host).unwrap();
    assert_eq!(host, [0; 40]);
}
