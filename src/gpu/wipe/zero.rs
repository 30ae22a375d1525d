//! Overwrites all of a GPU's memory that is free, by CUDA's driver library. Runs in a process of its
//! own (see `gpu::wipe`), and blocks; a library that lacks what every driver has ends that process.

use cudarc::driver::{CudaContext, DriverError, sys::CUresult};

use super::Zeroed;

const MIB: u64 = 1024 * 1024;

/// Less than this cannot be had in one piece: the driver keeps it.
const LEAST_BYTES: u64 = 16 * MIB;

/// So much of what was free may be left: what the driver itself takes, and what lies between.
const LEFT_MAX_BYTES: u64 = 256 * MIB;
const LEFT_MAX_SHARE: u64 = 20;

/// With more than this part of the memory in use, somebody else is on it.
const USED_MAX_SHARE: u64 = 4;

/// Why a wipe failed.
#[derive(Debug, thiserror::Error)]
pub enum ZeroError {
    /// The driver refused.
    #[error("CUDA: {0}")]
    Driver(#[from] DriverError),
    /// Somebody is on it.
    #[error("{used_bytes} of {total_bytes} bytes are in use")]
    Used {
        /// In use before the wipe.
        used_bytes: u64,
        /// What there is.
        total_bytes: u64,
    },
    /// Most of it cannot be had.
    #[error("only {wiped_bytes} of {free_bytes} free bytes could be overwritten")]
    Partly {
        /// Overwritten.
        wiped_bytes: u64,
        /// What was free before.
        free_bytes: u64,
    },
}

/// Overwrites what is free of the one GPU that this process sees.
///
/// # Errors
/// When the driver refuses, or lets only a part of it be had.
pub fn zero() -> Result<Zeroed, ZeroError> {
    let context = CudaContext::new(0)?;
    let stream = context.default_stream();
    let (free, total) = context.mem_get_info()?;
    let (free_bytes, total_bytes) = (bytes(free), bytes(total));
    // CUDA's own share, and a desktop's, are less. What is in use is not overwritten.
    let used_bytes = total_bytes.saturating_sub(free_bytes);
    if used_bytes > total_bytes / USED_MAX_SHARE {
        return Err(ZeroError::Used {
            used_bytes,
            total_bytes,
        });
    }
    let mut wiped_bytes = 0;
    let mut pieces = Vec::new();
    let mut piece = free_bytes;
    // All of it is held until the end, so that no piece is had twice.
    while piece >= LEAST_BYTES {
        match stream.alloc_zeros::<u8>(usize::try_from(piece).unwrap_or(usize::MAX)) {
            Ok(zeroed) => {
                wiped_bytes += piece;
                pieces.push(zeroed);
                piece = piece.min(free_bytes.saturating_sub(wiped_bytes));
            }
            Err(DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => piece /= 2,
            Err(error) => return Err(error.into()),
        }
    }
    stream.synchronize()?;
    let left_max = LEFT_MAX_BYTES.max(free_bytes / LEFT_MAX_SHARE);
    if free_bytes.saturating_sub(wiped_bytes) > left_max {
        return Err(ZeroError::Partly {
            wiped_bytes,
            free_bytes,
        });
    }
    Ok(Zeroed {
        wiped_bytes,
        total_bytes,
    })
}

fn bytes(size: usize) -> u64 {
    u64::try_from(size).unwrap_or(u64::MAX)
}
