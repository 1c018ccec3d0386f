//! Compressed streams that follow one another, which Python reads as one.

use std::io::{Error, ErrorKind, Read, Result};

use flate2::bufread::{GzDecoder, ZlibDecoder};

use crate::limits;

/// The content of all gzip or zlib streams at the start of some bytes. Python skips zeros behind a gzip stream.
pub(super) struct Streams<'a> {
    is_gzip: bool,
    /// The bytes behind the stream that is being read.
    rest: &'a [u8],
    stream: Option<Stream<'a>>,
    /// The number of streams so far.
    count: usize,
}

enum Stream<'a> {
    Gzip(Box<GzDecoder<&'a [u8]>>),
    Zlib(ZlibDecoder<&'a [u8]>),
}

impl<'a> Streams<'a> {
    pub(super) fn gzip(bytes: &'a [u8]) -> Self {
        Streams { is_gzip: true, rest: bytes, stream: None, count: 0 }
    }

    pub(super) fn zlib(bytes: &'a [u8]) -> Self {
        Streams { is_gzip: false, rest: bytes, stream: None, count: 0 }
    }

    fn next(&mut self) -> Result<Option<Stream<'a>>> {
        let zeros = if self.is_gzip { self.rest.iter().take_while(|&&byte| byte == 0).count() } else { 0 };
        let rest = self.rest.get(zeros..).unwrap_or_default();
        if rest.is_empty() {
            return Ok(None);
        }
        if self.count == limits::SCAN_STREAMS {
            return Err(Error::new(ErrorKind::FileTooLarge, "too many compressed streams"));
        }
        self.count += 1;
        Ok(Some(match self.is_gzip {
            true => Stream::Gzip(Box::new(GzDecoder::new(rest))),
            false => Stream::Zlib(ZlibDecoder::new(rest)),
        }))
    }
}

impl Read for Streams<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            let stream = match self.stream.take() {
                Some(stream) => Some(stream),
                None => self.next()?,
            };
            let Some(mut stream) = stream else { return Ok(0) };
            let len = match &mut stream {
                Stream::Gzip(stream) => stream.read(buffer)?,
                Stream::Zlib(stream) => stream.read(buffer)?,
            };
            if len > 0 {
                self.stream = Some(stream);
                return Ok(len);
            }
            self.rest = match stream {
                Stream::Gzip(stream) => stream.into_inner(),
                Stream::Zlib(stream) => stream.into_inner(),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::{GzEncoder, ZlibEncoder};
    use std::io::Write;

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn zlib(text: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn read(mut streams: Streams<'_>) -> (Vec<u8>, bool) {
        let mut content = Vec::new();
        let is_whole = streams.read_to_end(&mut content).is_ok();
        (content, is_whole)
    }

    #[test]
    fn reads_all_streams_up_to_what_is_none() {
        let members = [gzip(b""), vec![0; 9], gzip(b"ab"), gzip(b"c"), vec![0; 2]].concat();
        assert_eq!(read(Streams::gzip(&members)), (b"abc".to_vec(), true));
        let streams = [zlib(b"a"), zlib(b""), zlib(b"bc")].concat();
        assert_eq!(read(Streams::zlib(&streams)), (b"abc".to_vec(), true));
        assert_eq!(read(Streams::zlib(&[zlib(b"a"), b"xyz".to_vec()].concat())), (b"a".to_vec(), false));
    }

    #[test]
    fn bounds_the_number_of_streams() {
        let bytes = [zlib(b"").repeat(limits::SCAN_STREAMS), zlib(b"a")].concat();
        assert_eq!(read(Streams::zlib(&bytes)), (Vec::new(), false));
        let bytes = [zlib(b"").repeat(limits::SCAN_STREAMS - 1), zlib(b"a")].concat();
        assert_eq!(read(Streams::zlib(&bytes)), (b"a".to_vec(), true));
    }
}
