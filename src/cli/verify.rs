//! `verify`: every tensor of golden files, through the oracle and a device.

use std::io::Write;

use pr_lstm::backend::Backend;
use pr_lstm::golden::{CellFile, Kind, SequentialFile, TensorFile};
use pr_lstm::verify::{self, Tolerances};
use serde_json::json;

use super::{Failure, VerifyArgs};

/// Prints a line a tensor; fails if one is out of tolerance or a file is neither of a cell nor of a
/// sequential baseline.
pub fn run<B: Backend>(
    args: &VerifyArgs,
    backend: &B,
    tolerances: Tolerances,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let mut files = Vec::new();
    for path in &args.paths {
        files.extend(verify::files(path)?);
    }
    let (mut checked, mut failed) = (0, Vec::new());
    for path in &files {
        let file = TensorFile::read(path)?;
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
        let checks = if file.kind() == Some(Kind::Sequential) {
            verify::sequential(&SequentialFile::from_file(&file)?, backend, tolerances)?
        } else {
            let file = CellFile::from_file(&file)?;
            let mut checks = verify::reference(&file)?;
            checks.extend(verify::device(&file, backend, tolerances)?);
            checks
        };
        for check in checks {
            let verdict = if check.ok() { "ok" } else { "TOO LARGE" };
            if args.json {
                let line = json!({
                    "file": path.display().to_string(),
                    "tensor": check.tensor,
                    "device": check.device,
                    // JSON has no infinity
                    "error": if check.error.is_finite() { json!(check.error) } else { json!(null) },
                    "tolerance": check.tolerance,
                    "ok": check.ok(),
                });
                writeln!(out, "{line}")?;
            } else {
                let (tensor, device) = (&check.tensor, &check.device);
                let (error, tolerance) = (check.error, check.tolerance);
                writeln!(
                    out,
                    "{name:<34}{tensor:<16}{device:<10}{error:>9.1e} of {tolerance:.0e}  {verdict}"
                )?;
            }
            checked += 1;
            if !check.ok() {
                failed.push(format!("{name} {} on {}", check.tensor, check.device));
            }
        }
    }
    if let Some(first) = failed.first() {
        let verdict = format!(
            "{} of {checked} tensors are out of tolerance, the first is {first}: \
             the file was changed, or this machine computes wrongly",
            failed.len()
        );
        return Err(Failure::Verdict(verdict));
    }
    if !args.json {
        writeln!(out, "{checked} tensors of {} files are within tolerance", files.len())?;
    }
    Ok(())
}
