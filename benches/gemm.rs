//! Plain products of the cases that `pr-lstm bench --list --json` prints to stdin, as JSON lines: for `scripts/bench`.
//!
//! `pr-lstm bench --list --json step | cargo bench --bench gemm`; `-- --small` runs each once. As a test it runs the small
//! cases.

mod products;

use std::io::{Write as _, stdin, stdout};

use pr_lstm::bench::{Case, Effort, Entrant, Record, peer};

/// A contender for each algorithm of a case that is made of products.
fn entrants(case: &Case) -> pr_lstm::Result<Vec<Entrant>> {
    let mut entrants = Vec::new();
    for &algorithm in case.algorithms() {
        let products = case.products(algorithm)?;
        if !products.is_empty() {
            entrants.push(Entrant::new(
                products::name(algorithm),
                case,
                algorithm,
                products::work(products),
            )?);
        }
    }
    Ok(entrants)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let has = |wanted: &str| std::env::args().any(|argument| argument == wanted);
    let out = &mut stdout().lock();
    if !has("--bench") {
        let list = Case::all(true).iter().map(Case::to_json).collect::<pr_lstm::Result<Vec<_>>>()?;
        let list: Vec<String> = list.iter().map(ToString::to_string).collect();
        return Ok(peer(list.join("\n").as_bytes(), out, Effort::ONCE, entrants)?);
    }
    let text =
        "products of the same shapes, f32, crate gemm with x86-v4: no gates, no gathering, no step between";
    writeln!(out, "{}", Record::note("gemm", text).to_json())?;
    let effort = if has("--small") { Effort::ONCE } else { Effort::FULL };
    Ok(peer(stdin().lock(), out, effort, entrants)?)
}
