//! Loads a checkpoint and runs a ragged batch: `cargo run --example ragged_batch -- model.safetensors`.
//! Without a file it writes one of random weights first, and removes it again.

use pr_lstm::{Config, Cpu, Model, Outputs, Parameters, Result};

fn main() -> Result<()> {
    let made = std::env::temp_dir().join(format!("pr-lstm-example-{}.safetensors", std::process::id()));
    let given = std::env::args().nth(1);
    if given.is_none() {
        Parameters::init(&Config::new(3, 64, 2), Cpu::new(), 0)?.save(&made)?;
    }
    let path = given.as_ref().map_or(made.as_path(), |path| path.as_ref());

    let model = Model::load(path, Cpu::new())?;
    let mut session = model.session().max_batch(64).max_time(512).outputs(Outputs::Last).build()?;
    println!("{} bytes, path {}", session.workspace_bytes(), session.path());
    let batch: [&[u32]; 3] = [&[0, 1, 1], &[1], &[0, 0, 1, 1, 0]];
    let y = session.forward(&batch)?; // [B, 1, O]
    for (index, sequence) in batch.iter().enumerate() {
        println!("{sequence:?} -> {:?}", y.sequence(index));
    }

    // A sequence has the same bits in any batch.
    let together = y.sequence(2).to_vec();
    assert_eq!(*together, *session.forward(&batch[2..])?);
    if given.is_none() {
        let _ = std::fs::remove_file(made);
    }
    Ok(())
}
