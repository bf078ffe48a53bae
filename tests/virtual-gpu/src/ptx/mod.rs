//! PTX text, read once: tokens, then functions, then the compact form that the machine runs.

pub mod flow;
pub mod ir;
pub mod lex;
pub mod lower;
mod lower_alu;
mod lower_memory;
mod lower_move;
mod lower_wgmma;
pub mod parse;
mod products;
mod slots;
pub mod touch;
mod trips;
