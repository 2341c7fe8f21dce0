//! The part of `zstd`'s interface that `commonware-storage` names, for a program without compression. Its journals can
//! compress what they hold; ours do not, and must not link zstd's C library, because chia-pos2 brings functions of the
//! same names (`HIST_*`, `HUF_selectDecoder`). Nothing here can be made: no compressor and no decompressor exists, so
//! a journal that asks for compression fails with `CompressionFailed`, and one that was compressed is not read.

#![forbid(unsafe_code)]

/// Whole frames at once
pub mod bulk {
    use std::io;
    use std::marker::PhantomData;

    /// What a decompressor would be
    #[derive(Debug)]
    pub struct Decompressor<'a> {
        none: std::convert::Infallible,
        lifetime: PhantomData<&'a ()>,
    }

    impl Decompressor<'_> {
        /// There is none
        ///
        /// # Errors
        /// Always
        pub fn new() -> io::Result<Self> {
            Err(io::Error::new(io::ErrorKind::Unsupported, "this program does not compress"))
        }

        /// Cannot be called
        ///
        /// # Errors
        /// Never returns
        pub fn decompress(&mut self, _: &[u8], _: usize) -> io::Result<Vec<u8>> {
            match self.none {}
        }
    }
}

/// The interface below
pub mod zstd_safe {
    use std::io::Cursor;
    use std::marker::PhantomData;

    /// What a compressor would be
    #[derive(Debug)]
    pub struct CCtx<'a> {
        none: std::convert::Infallible,
        lifetime: PhantomData<&'a ()>,
    }

    impl CCtx<'_> {
        /// There is none
        pub fn try_create() -> Option<Self> {
            None
        }

        /// Cannot be called
        ///
        /// # Errors
        /// Never returns
        pub fn compress(
            &mut self,
            _: &mut Cursor<&mut Vec<u8>>,
            _: &[u8],
            _: i32,
        ) -> Result<usize, usize> {
            match self.none {}
        }
    }

    /// Octets that as many become at most
    pub fn compress_bound(octets: usize) -> usize {
        octets
    }

    /// No frame says how long its content is, since there are no frames
    ///
    /// # Errors
    /// Never
    pub fn get_frame_content_size(_: &[u8]) -> Result<Option<u64>, std::convert::Infallible> {
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn nothing_compresses_and_nothing_decompresses() {
        assert!(super::bulk::Decompressor::new().is_err());
        assert!(super::zstd_safe::CCtx::try_create().is_none());
    }
}
