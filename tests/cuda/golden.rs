//! The golden cell files, made with the paper's own code, on the device: every type, values and gradients by `verify`.

use pr_lstm::backend::Backend as _;
use pr_lstm::golden::CellFile;
use pr_lstm::verify::{self, Tolerances};

use crate::common::cell_files;
use crate::common::device::{Device, Storage};

#[test]
fn golden_cells_hold_for_every_type() {
    let device = Device::take();
    for storage in Storage::ALL {
        let backend = device.backend(storage);
        let tolerances = Tolerances::cuda(backend.dtype());
        let trains = backend.can_train();
        assert_eq!(trains, storage != Storage::F16);
        assert_eq!(tolerances.values, storage.tolerance());
        let mut worst = [0.0f64; 2];
        for path in cell_files() {
            let checks = verify::device(&CellFile::read(&path).unwrap(), &backend, tolerances).unwrap();
            for tensor in ["hidden", "output", "loss"] {
                assert!(checks.iter().any(|check| check.tensor == tensor), "{tensor}: {checks:?}");
            }
            for tensor in ["grad.leaf.w", "grad.merge.b", "grad.readout.w", "grad.input"] {
                assert_eq!(checks.iter().any(|check| check.tensor == tensor), trains, "{tensor}: {checks:?}");
            }
            for check in checks {
                let gradient = check.tensor.starts_with("grad.");
                let most = if gradient { storage.gradient_tolerance() } else { tolerances.values };
                assert!(check.ok() && check.tolerance <= most, "{}: {check:?}", path.display());
                let worst = &mut worst[usize::from(gradient)];
                *worst = worst.max(check.error);
            }
        }
        println!("{storage:?}: values {:.1e}, gradients {:.1e}", worst[0], worst[1]);
        assert!(worst[0] > 0.0 && (worst[1] > 0.0) == trains, "{storage:?} is never exact");
    }
}
