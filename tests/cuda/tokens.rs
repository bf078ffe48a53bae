//! Tokens that live on the device and that the model does not have: reported, NaN in what depends on them, nothing else
//! touched.

use pr_lstm::backend::Backend as _;
use pr_lstm::model::Cell;
use pr_lstm::{Config, Outputs};

use crate::common::device::{Device, Storage};
use crate::common::{Batch, POISON, Runner, draw_tokens, narrow, parameters, random, schedule};

#[test]
fn a_token_out_of_range_is_reported_and_spoils_what_depends_on_it_only() {
    const D: usize = 33;
    let mut random = random(700);
    let device = Device::take();
    for storage in Storage::ALL {
        let backend = device.backend(storage);
        for (cell, lengths) in
            [(Cell::Lstm, vec![7; 5]), (Cell::Rnn, vec![7; 5]), (Cell::Lstm, vec![7, 2, 9, 4, 1])]
        {
            let config = Config::new(D, 20, 2).cell(cell);
            let runner = Runner::new(&backend, &config, &narrow(&parameters(&config, &mut random, 1.0)));
            let schedule = schedule(&lengths, &Outputs::All);
            let good = draw_tokens(&mut random, D, &lengths);
            let expected = runner.run(&schedule, &Batch::Tokens(good.clone()));

            let mut bad = good.clone();
            // The second sequence's comes first in the order of the input rows.
            (bad[1][1], bad[3][2]) = (D as u32, u32::MAX);
            let (found, plan) = runner.try_run(&schedule, &Batch::Tokens(bad), POISON);
            let (found, plan) = (found.unwrap(), plan.unwrap());
            let what = format!("{storage:?}, {config:?}, {lengths:?}");
            let mut row = 0;
            for (sequence, &length) in lengths.iter().enumerate() {
                for position in 0..length {
                    let spoiled = (sequence == 1 && position >= 1) || (sequence == 3 && position >= 2);
                    let (found, expected) = (found.rows(&config, [row]), expected.rows(&config, [row]));
                    if spoiled {
                        let all = found.hidden.iter().chain(&found.logits).all(|x| x.is_nan());
                        assert!(all, "{what}: sequence {sequence}, position {position}: {found:?}");
                    } else {
                        found
                            .assert_same_bits(&expected, &format!("{what}: sequence {sequence}, {position}"));
                    }
                    row += 1;
                }
            }
            let error = runner.backend.check(&plan).expect_err("two tokens out of range").to_string();
            // A device knows leaves and lanes: of a ragged batch, one row of many leaves.
            let leaves = schedule.leaves().len();
            let row = lengths[0] + 1;
            let place = format!("sequence {}, position {}:", row / leaves, row % leaves);
            assert!(error.contains(&place), "{what}: {error}");
            // Asking clears it, and the plan is good for more.
            runner.backend.check(&plan).unwrap();
            let again = runner.over(&plan, &schedule, &Batch::Tokens(good), POISON).unwrap();
            runner.backend.check(&plan).unwrap();
            again.assert_same_bits(&expected, &what);
        }
    }
}
