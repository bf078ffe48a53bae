//! Planted bugs: each is caught and named, each mended twin passes, in ten orders of warps and blocks too.

mod common;

use common::{alone, device, kernel, shape};
use cudarc::driver::{LaunchConfig, PushKernelArg as _};

const PLANTED: &str = include_str!("cuda/planted.ptx");

/// Runs a kernel of 64 threads a block on 64 numbers; the error's words if it failed.
fn run(name: &str, blocks: u32, cooperative: bool) -> Result<Vec<f32>, String> {
    // Far more than any of the kernels here takes.
    run_within(name, blocks, cooperative, 10_000)
}

/// The same, with a limit of time in milliseconds.
fn run_within(name: &str, blocks: u32, cooperative: bool, limit: u64) -> Result<Vec<f32>, String> {
    let (context, stream) = device();
    virtual_gpu::set("timeout", limit);
    let f = kernel(&context, PLANTED, name);
    let input: Vec<f32> = (0..64).map(|i| i as f32).collect();
    let input = stream.clone_htod(&input).unwrap();
    let uninitialised = name.contains("uninitialised_global");
    let bounds = name.contains("global_bounds");
    let n = if bounds { 64 } else { 4096 + 64 };
    let mut output = if uninitialised {
        // SAFETY: read before it is written, which is what is tested.
        unsafe { stream.alloc::<f32>(n) }.unwrap()
    } else {
        stream.alloc_zeros::<f32>(n).unwrap()
    };
    let count = 64i32;
    let mut launch = stream.launch_builder(&f);
    launch.arg(&input).arg(&mut output).arg(&count);
    let config = LaunchConfig { ..shape(blocks, 64, 0) };
    // SAFETY: the arguments are those of the kernel.
    let launched =
        unsafe { if cooperative { launch.launch_cooperative(config) } else { launch.launch(config) } };
    launched.unwrap();
    match stream.synchronize() {
        Err(error) => Err(format!("{error}: {}", virtual_gpu::last_error())),
        Ok(()) if uninitialised => Ok(Vec::new()),
        Ok(()) => Ok(stream.clone_dtoh(&output).unwrap()),
    }
}

/// The bug is caught; the message names kernel, line, block and what is wrong.
fn caught(name: &str, blocks: u32, words: &[&str]) {
    let error = run(name, blocks, name.contains("grid")).expect_err(name);
    println!("{error}");
    for word in [name, "PTX line", "block ("].iter().chain(words) {
        assert!(error.contains(word), "{name}: '{word}' is missing in: {error}");
    }
}

fn clean(name: &str, blocks: u32) -> Vec<f32> {
    let first = run(name, blocks, name.contains("grid")).unwrap_or_else(|e| panic!("{name}: {e}"));
    for seed in 1..11 {
        virtual_gpu::set("seed", seed);
        let again = run(name, blocks, name.contains("grid"));
        virtual_gpu::set("seed", 0);
        assert_eq!(first, again.unwrap_or_else(|e| panic!("{name}, seed {seed}: {e}")));
    }
    first
}

#[test]
fn bounds_and_alignment() {
    let _alone = alone();
    caught(
        "bad_global_bounds",
        2,
        &["out of bounds", "block (1, 0, 0)", "thread (0, 0, 0)", "0 bytes behind"],
    );
    clean("ok_global_bounds", 2);
    caught("bad_shared_bounds", 1, &["out of bounds", "thread (63, 0, 0)", "shared address", "offset 256"]);
    clean("ok_shared_bounds", 1);
    caught("bad_misaligned", 1, &["misaligned", "thread (0, 0, 0)", "8 bytes"]);
    clean("ok_misaligned", 1);
}

#[test]
fn uninitialised_memory() {
    let _alone = alone();
    caught("bad_uninitialised_shared", 1, &["uninitialised", "shared address", "thread (63, 0, 0)"]);
    clean("ok_uninitialised_shared", 1);
    caught("bad_uninitialised_global", 1, &["uninitialised", "global address", "thread (0, 0, 0)"]);
    clean("ok_uninitialised_global", 1);
    caught("bad_uninitialised_local", 1, &["uninitialised", "local"]);
    clean("ok_uninitialised_local", 1);
}

#[test]
fn missing_barriers() {
    let _alone = alone();
    caught("bad_missing_barrier", 1, &["never written", "is a barrier missing?", "thread ("]);
    caught("bad_missing_second_barrier", 1, &["race in shared memory", "thread ("]);
    clean("ok_missing_barrier", 1);
    caught("bad_missing_warp_barrier", 1, &["race in shared memory", "thread (0, 0, 0)", "thread (1, 0, 0)"]);
    clean("ok_missing_warp_barrier", 1);
    caught("bad_barrier", 1, &["barrier not reached by all", "32 of 64"]);
    clean("ok_barrier", 1);
    caught("bad_barrier_in_a_branch", 1, &["barrier not reached by all"]);
}

#[test]
fn asynchronous_copies() {
    let _alone = alone();
    caught("bad_missing_wait", 1, &["cp.async", "not waited for", "thread ("]);
    caught("bad_wait_of_one_group_less", 1, &["cp.async", "not waited for", "thread ("]);
    clean("ok_missing_wait", 1);
    caught("bad_missing_barrier_after_wait", 1, &["shared address", "thread ("]);
    clean("ok_missing_barrier_after_wait", 1);
}

#[test]
fn races_between_blocks() {
    let _alone = alone();
    caught("bad_race_between_blocks", 2, &["race between blocks", "global address", "thread ("]);
    clean("ok_race_between_blocks", 2);
    caught("bad_two_writers", 2, &["race between blocks", "global address"]);
    clean("ok_two_writers", 2);
    clean("ok_halves_of_a_word", 40);
}

#[test]
fn races_in_device_memory_within_a_block() {
    let _alone = alone();
    // The first warp has read already when the second one writes.
    let race = "race in global memory: writes global address";
    caught("bad_memory_without_barrier", 1, &[race, "thread (32, 0, 0)", "which thread (0, 0, 0) read"]);
    let race = "race in global memory: reads global address";
    caught(
        "bad_memory_without_warp_barrier",
        1,
        &[race, "thread (0, 0, 0): ", "which thread (1, 0, 0) wrote"],
    );
    caught("bad_memory_between_lanes", 1, &[race, "thread (0, 0, 0): ", "which thread (3, 0, 0) wrote"]);
    clean("ok_memory_with_barrier", 1);
    caught("bad_memory_overwritten", 1, &["race in global memory: ", "with no barrier between"]);
    clean("ok_memory_overwritten", 1);
    clean("ok_memory_of_one_thread", 1);
    caught("bad_lanes_at_one_place", 1, &["lanes 0 and 1 write different values to global address"]);
    clean("ok_lanes_at_one_place", 1);
    caught("bad_shared_atomics", 1, &["race in shared memory: reads 4 bytes", "thread ("]);
    clean("ok_shared_atomics", 1);
}

#[test]
fn the_constant_path() {
    let _alone = alone();
    caught("bad_constant_path", 1, &["ld.global.nc", "global address"]);
    clean("ok_constant_path", 1);
}

#[test]
fn a_grid_barrier() {
    let _alone = alone();
    caught("bad_grid_barrier_without_release", 8, &["race between blocks"]);
    caught("bad_grid_barrier_without_wait", 8, &["race between blocks"]);
    clean("ok_grid_barrier", 8);
    clean("ok_grid_barrier_with_fences", 8);
}

#[test]
fn a_resident_kernel_hands_on_what_its_warps_know() {
    let _alone = alone();
    let race = ["race between blocks: ", "s global address", "which block ("];
    for bad in ["before_the_block", "without_the_block", "of_a_block", "with_block_fences", "without_acquire"]
    {
        let name = format!("bad_grid_barrier_{bad}");
        caught(&name, 8, &race);
        // Whatever the order, it is found, in reading or in writing.
        for seed in 1..6 {
            virtual_gpu::set("seed", seed);
            let error = run(&name, 8, true);
            virtual_gpu::set("seed", 0);
            assert!(error.unwrap_err().contains("race between blocks"), "{name}, seed {seed}");
        }
    }
    let first = clean("ok_grid_barrier_resident", 32);
    assert_eq!(first, clean("ok_grid_barrier_resident_with_fences", 32));
    // After six steps a number has come from 1 + … + 6 blocks on, and was 64 added to six times.
    assert_eq!(first[..64], (0..64).map(|i| (i + 6 * 64) as f32).collect::<Vec<_>>());
    caught("bad_grid_flag_without_release", 4, &race);
    caught("bad_grid_flag_taken_back", 4, &race);
    caught("bad_grid_flag_too_early", 4, &race);
    clean("ok_grid_flag", 4);
    clean("ok_grid_flag_stored_again", 4);
}

#[test]
fn a_loop_without_end_is_ended() {
    let _alone = alone();
    let alone = run_within("bad_endless", 1, false, 50);
    // Blocks that wait for each other, launched so that not all need to run at once.
    let waiting = run_within("ok_grid_barrier", 8, false, 50);
    for (name, error) in [("bad_endless", alone), ("ok_grid_barrier", waiting)] {
        let error = error.expect_err(name);
        for words in [name, "LAUNCH_TIMEOUT", "PTX line", "still running after 50ms", "block ("] {
            assert!(error.contains(words), "{words} is missing in: {error}");
        }
    }
    run("ok_grid_barrier", 8, true).unwrap();
}

#[test]
fn what_is_not_there_has_a_name() {
    let _alone = alone();
    caught("bad_printf", 1, &["vprintf"]);
}

#[test]
fn bare_products_are_refused_where_asked() {
    let _alone = alone();
    clean("ok_bare_float", 1);
    clean("bad_bare_float", 1);
    virtual_gpu::set("strict_float", 1);
    let (bad, good) = (run("bad_bare_float", 1, false), run("ok_bare_float", 1, false));
    virtual_gpu::set("strict_float", 0);
    assert!(bad.unwrap_err().contains("mul.f32"));
    good.unwrap();
}

#[test]
fn a_failed_launch_is_forgotten_with_its_context() {
    let _alone = alone();
    let before = virtual_gpu::allocations();
    for _ in 0..3 {
        run("bad_global_bounds", 2, false).unwrap_err();
        run("ok_global_bounds", 2, false).unwrap();
    }
    assert_eq!(virtual_gpu::allocations(), before);
}
