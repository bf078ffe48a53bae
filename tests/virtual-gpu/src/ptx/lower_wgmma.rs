//! Lowers the products of warpgroups and the fence that hands shared memory to them.

use super::ir::{Class, Op};
use super::lower::{Lower, Result};
use super::lower_memory::items;
use super::parse::{Arg, Instruction};

/// A shape `m64nNk16`: N, a multiple of 8 up to 256.
fn columns(shape: &str) -> Option<usize> {
    let n = shape.strip_prefix("m64n")?.strip_suffix("k16")?.parse().ok()?;
    (n % 8 == 0 && (8..=256).contains(&n)).then_some(n)
}

/// An immediate operand.
fn immediate(arg: &Arg) -> Result<i128> {
    let Arg::Int(value) = arg else { return Err("an immediate was expected".into()) };
    Ok(*value)
}

impl Lower<'_> {
    pub(super) fn wgmma(&mut self, i: &Instruction, parts: &[&str]) -> Result<()> {
        if self.target() != "sm_90a" {
            return Err(format!("needs .target sm_90a, not {}", self.target()));
        }
        match parts {
            ["fence", "sync", "aligned"] => self.emit(Op::WgmmaFence),
            ["commit_group", "sync", "aligned"] => self.emit(Op::WgmmaCommit),
            ["wait_group", "sync", "aligned"] => {
                let [keep] = &i.args[..] else { return Err("one operand was expected".into()) };
                self.emit(Op::WgmmaWait { keep: immediate(keep)? as u32 });
            }
            ["mma_async", "sync", "aligned", shape, "f32", a, b] if a == b => {
                let n = columns(shape).ok_or("shape not supported")?;
                let half = match *a {
                    "bf16" => false,
                    "f16" => true,
                    _ => return Err("type not supported".into()),
                };
                self.product(i, n, half)?;
            }
            _ => return Err("instruction not supported".into()),
        }
        Ok(())
    }

    fn product(&mut self, i: &Instruction, n: usize, half: bool) -> Result<()> {
        if matches!(i.args.get(1), Some(Arg::Vector(_))) {
            return Err("A in registers is not supported".into());
        }
        let [to, a, b, adds, scale_a, scale_b, trans_a, trans_b] = &i.args[..] else {
            return Err("eight operands were expected".into());
        };
        for (name, scale) in [("imm-scale-a", scale_a), ("imm-scale-b", scale_b)] {
            match immediate(scale)? {
                1 => {}
                value => return Err(format!("{name} {value} is not supported")),
            }
        }
        let mut trans = [false; 2];
        for (trans, arg) in trans.iter_mut().zip([trans_a, trans_b]) {
            *trans = match immediate(arg)? {
                0 => false,
                1 => true,
                value => return Err(format!("an order of {value}: 0 or 1 was expected")),
            };
        }
        if items(to).len() != n / 2 {
            return Err("the accumulators have another length than the shape says".into());
        }
        let mut d = Vec::with_capacity(n / 2);
        for arg in items(to) {
            let slot = self.write(Class::R32, arg)?;
            if d.contains(&slot) {
                return Err("an accumulator is named twice".into());
            }
            d.push(slot);
        }
        let (a, b) = (self.read64(a)?, self.read64(b)?);
        let adds = self.pred(adds)?;
        self.emit(Op::Wgmma { half, d, a, b, adds, trans });
        Ok(())
    }

    pub(super) fn proxy_fence(&mut self, parts: &[&str]) -> Result<()> {
        let digits = self.target().trim_start_matches("sm_").trim_end_matches(char::is_alphabetic);
        if digits.parse().unwrap_or(0) < 90 {
            return Err(format!("needs .target sm_90 or newer, not {}", self.target()));
        }
        match parts {
            ["proxy", "async"] | ["proxy", "async", "shared::cta"] => self.emit(Op::ProxyFence),
            _ => return Err("instruction not supported".into()),
        }
        Ok(())
    }
}
