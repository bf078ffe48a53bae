//! PTX text, read once: tokens, then functions, then the compact form that the machine runs.

pub mod flow;
pub mod ir;
pub mod lex;
pub mod lower;
mod lower_alu;
mod lower_memory;
mod lower_move;
pub mod parse;
mod slots;
pub mod touch;
mod trips;
