//! Many streams, each at its own position: prompts, tokens, a fork, a stream saved and restored.

use pr_lstm::{Config, Cpu, Outputs, Parameters, Result};

fn main() -> Result<()> {
    let model = Parameters::init(&Config::new(3, 64, 2), Cpu::new(), 0)?.model();
    let mut streams = model.streams(32)?;
    let a = streams.open()?;
    let b = streams.open()?;
    let prompt = [0, 1, 1, 0, 1, 0, 0];
    streams.prefill(a, &prompt)?; // the parallel scan: same bits as appending
    let y = streams.append(&[(a, 1), (b, 0)])?; // one batched step, [2, O]
    println!("a {:?}, b {:?}", &y[..2], &y[2..]);

    let fork = streams.fork(a)?; // beam search, speculation
    let branches = streams.append(&[(a, 0), (fork, 1)])?;
    println!("a goes on with 0 {:?}, its fork with 1 {:?}", &branches[..2], &branches[2..]);

    let bytes = streams.save(fork)?;
    let restored = streams.restore(&bytes)?;
    println!(
        "the fork at {}: {} states, {} bytes",
        streams.position(fork)?,
        streams.states(fork)?,
        bytes.len()
    );
    let next = streams.append(&[(fork, 2), (restored, 2)])?;
    assert_eq!(next[..2], next[2..]);

    // Streaming is exact: the same bits as the whole sequence at once.
    let next = next[..2].to_vec();
    let whole: Vec<u32> = prompt.iter().copied().chain([1, 1, 2]).collect();
    let mut session = model.session().outputs(Outputs::Last).build()?;
    assert_eq!(*next, *session.forward(&[whole])?);
    Ok(())
}
