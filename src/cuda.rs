//! What is CUDA's alone: the device, a planned pass as a graph, and cudarc itself, whose types appear nowhere else.
//!
//! ```no_run
//! use pr_lstm::cuda::{self, Cuda};
//! use pr_lstm::{Dtype, Model, Outputs};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! cuda::count()?; // an error where there is no driver; cudarc would panic
//! let context = cuda::cudarc::driver::CudaContext::new(0)?;
//! // SAFETY: one stream, so there is nothing for events to order.
//! unsafe { context.disable_event_tracking() };
//! let stream = context.new_stream()?;
//!
//! let model = Model::load_as("model.safetensors", Cuda::on(&stream)?, Dtype::Bf16)?;
//! let plan = model.plan(128, 40, Outputs::Last)?;
//! let tokens = stream.alloc_zeros::<u32>(plan.inputs())?;
//! let workspace = stream.alloc_zeros::<u8>(plan.workspace_bytes())?;
//! let y = stream.alloc_zeros::<f32>(plan.outputs() * model.config().output)?;
//! let mut graph = cuda::capture(&model, &plan, tokens, workspace, y)?;
//! stream.memcpy_htod(&vec![1; plan.inputs()], &mut graph.input_mut())?;
//! graph.launch()?;
//! let logits = stream.clone_dtoh(&graph.y())?;
//! # Ok(())
//! # }
//! ```

pub use cudarc;

pub use crate::backend::cuda::{
    Cuda, CudaPlan, CudaWeights, Device, F32Path, Graph, GraphInput, Memory, capture, count,
};
