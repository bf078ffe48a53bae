//! The golden files of the sequential baselines, which have hidden states and no read-out.

use super::{Check, Tolerances, loss_error, narrow, widen};
use crate::backend::Backend;
use crate::error::Result;
use crate::golden::{SequentialFile, relative_error, worst_position};
use crate::model::{Cell, Parameters};
use crate::reference::{Linear, SequentialLstm, SequentialRnn};
use crate::tape::Tape;
use crate::tree::Outputs;

/// What a pass forward and backward gave: `[B, T, H]`, flat parameters, `[B, T, D]`.
struct Found {
    hidden: Vec<f64>,
    gradients: Vec<f64>,
    input: Vec<f64>,
}

/// The checks of a sequential baseline's file: `hidden`, `loss`, and `grad.*` by the names of the layout, of the oracle
/// and then of a device.
///
/// # Errors
/// The device's; [`Error::Unavailable`](crate::Error::Unavailable) if it does not run such models.
pub fn sequential<B: Backend>(
    file: &SequentialFile,
    backend: &B,
    tolerances: Tolerances,
) -> Result<Vec<Check>> {
    let name = backend.name();
    let mut checks = compare(file, "reference", Tolerances::REFERENCE, &oracle(file)?)?;
    checks.extend(compare(file, &name, tolerances, &device(file, backend)?)?);
    Ok(checks)
}

/// The gradient of the hidden states.
fn d_hidden(file: &SequentialFile) -> Vec<f64> {
    let rows = (file.batch * file.time) as f64;
    file.cotangent.iter().map(|cotangent| cotangent / rows).collect()
}

fn device<B: Backend>(file: &SequentialFile, backend: &B) -> Result<Found> {
    let parameters = Parameters::new(&file.config, backend.clone(), &narrow(&file.parameters))?;
    let input = narrow(&file.input);
    let sequences: Vec<&[f32]> = input.chunks_exact(file.time * file.config.input).collect();
    let mut tape = Tape::new(&parameters, file.batch, file.time)?;
    let hidden = tape.scan_dense(&parameters, &sequences, Outputs::All)?;
    let gradients = widen(&tape.backward_from(hidden, &narrow(&d_hidden(file)))?.to_vec()?);
    Ok(Found { hidden: widen(&tape.value(hidden)?), gradients, input: widen(&tape.d_input(hidden)?) })
}

fn oracle(file: &SequentialFile) -> Result<Found> {
    let layout = file.config.layout()?;
    let tensor = |name: &str| {
        layout.get(name).map_or(Vec::new(), |tensor| file.parameters[tensor.range.clone()].to_vec())
    };
    let [input, recurrent] = ["input", "recurrent"]
        .map(|layer| Linear { w: tensor(&format!("{layer}.w")), b: tensor(&format!("{layer}.b")) });
    let mut found = Found { hidden: vec![], gradients: vec![0.0; layout.len()], input: vec![] };
    let lengths = (file.time * file.config.input, file.time * file.config.hidden);
    let sequences = file.input.chunks(lengths.0);
    for (x, d_hidden) in sequences.zip(d_hidden(file).chunks(lengths.1)) {
        let (hidden, layers, d_input) = match file.config.cell {
            Cell::Lstm => {
                let lstm = SequentialLstm::new(recurrent.clone())?;
                let pass = lstm.forward(x)?;
                let gradients = lstm.backward(&pass, d_hidden)?;
                (pass.hidden, vec![gradients.parameters.layer], gradients.input)
            }
            Cell::Rnn => {
                let rnn = SequentialRnn::new(input.clone(), recurrent.clone())?;
                let pass = rnn.forward(x)?;
                let gradients = rnn.backward(&pass, d_hidden)?;
                let SequentialRnn { input, recurrent } = gradients.parameters;
                (pass.hidden, vec![input, recurrent], gradients.input)
            }
        };
        found.hidden.extend(hidden);
        found.input.extend(d_input);
        let parts = layers.iter().flat_map(|layer| layer.w.iter().chain(&layer.b));
        found.gradients.iter_mut().zip(parts).for_each(|(sum, part)| *sum += part);
    }
    Ok(found)
}

fn compare(file: &SequentialFile, device: &str, tolerances: Tolerances, found: &Found) -> Result<Vec<Check>> {
    let over_time =
        |found: &[f64], expected: &[f64]| worst_position(found, expected, file.batch, file.time).0;
    let check = |tensor: &str, error: f64, tolerance: f64| Check {
        tensor: tensor.to_owned(),
        device: device.to_owned(),
        error,
        tolerance,
    };
    let Tolerances { values, gradients } = tolerances;
    let mut checks = vec![
        check("hidden", over_time(&found.hidden, &file.hidden), values),
        check("loss", loss_error(&d_hidden(file), &found.hidden, file.loss), values),
    ];
    for parameter in file.config.layout()?.names {
        let range = parameter.range;
        let error = relative_error(&found.gradients[range.clone()], &file.gradients[range]);
        checks.push(check(&format!("grad.{}", parameter.name), error, gradients));
    }
    checks.push(check("grad.input", over_time(&found.input, &file.grad_input), gradients));
    Ok(checks)
}
