//! Memory that is used again and again, so that it is not asked for and given back each time.

use crate::sync::{Mutex, PoisonError};

/// Buffers that are kept.
const BUFFERS: usize = 8;

/// What one decoder needs for what it decodes.
#[derive(Default)]
pub(super) struct Scratch {
    pub(super) decompressor: Option<zstd::bulk::Decompressor<'static>>,
    pub(super) buffer: Vec<u8>,
}

/// What is not in use.
#[derive(Default)]
pub(super) struct Spare {
    /// Of parts of ranges.
    buffers: Mutex<Vec<Vec<u8>>>,
    /// As many as there were decoders at work at once.
    scratches: Mutex<Vec<Scratch>>,
}

impl Spare {
    /// A buffer, with anything in it.
    pub(super) fn buffer(&self) -> Vec<u8> {
        take(&self.buffers)
    }

    pub(super) fn keep_buffer(&self, buffer: Vec<u8>) {
        let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        if buffers.len() < BUFFERS {
            buffers.push(buffer);
        }
    }

    pub(super) fn scratch(&self) -> Scratch {
        take(&self.scratches)
    }

    pub(super) fn keep_scratch(&self, scratch: Scratch) {
        self.scratches.lock().unwrap_or_else(PoisonError::into_inner).push(scratch);
    }

    /// Keeps nothing.
    pub(super) fn clear(&self) {
        *self.buffers.lock().unwrap_or_else(PoisonError::into_inner) = Vec::new();
        *self.scratches.lock().unwrap_or_else(PoisonError::into_inner) = Vec::new();
    }
}

fn take<T: Default>(kept: &Mutex<Vec<T>>) -> T {
    kept.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
}
