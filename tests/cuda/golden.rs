//! The golden cell files, made with the paper's own code, on the device: every type, values by `verify`.

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
        assert_eq!(tolerances.values, storage.tolerance());
        let mut worst = 0.0f64;
        for path in cell_files() {
            let checks = verify::device(&CellFile::read(&path).unwrap(), &backend, tolerances).unwrap();
            for tensor in ["hidden", "output", "loss"] {
                assert!(checks.iter().any(|check| check.tensor == tensor), "{tensor}: {checks:?}");
            }
            for check in checks {
                assert!(check.ok() && check.tolerance <= tolerances.values, "{}: {check:?}", path.display());
                worst = worst.max(check.error);
            }
        }
        println!("{storage:?}: {worst:.1e} of {:.0e}", tolerances.values);
        assert!(worst > 0.0, "{storage:?} is never exact");
    }
}
