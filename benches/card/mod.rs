//! The card that the GPU benchmarks run on, or the virtual GPU in its place.

use std::error::Error;
use std::sync::Arc;

use pr_lstm::cuda;
use pr_lstm::cuda::cudarc::driver::CudaContext;

pub struct Card {
    pub context: Arc<CudaContext>,
    pub name: String,
    pub is_virtual: bool,
}

impl Card {
    /// The first one; says what is missing, where cudarc would panic.
    pub fn open() -> Result<Self, Box<dyn Error>> {
        cuda::count()?;
        let context = CudaContext::new(0)?;
        // SAFETY: the benchmarks use one stream, so there is nothing for events to order.
        unsafe { context.disable_event_tracking() };
        let name = context.name()?;
        let is_virtual = name.starts_with("Virtual");
        Ok(Card { context, name, is_virtual })
    }
}
