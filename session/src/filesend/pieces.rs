//! The request side of a file target's call, which must tell a file's end from its sender giving up.
//!
//! A stream that merely stops looks complete to the client. So the end is said explicitly, and a stream that
//! stops without it fails to encode, which resets the call.

use bytes::Bytes;
use cairn_proto::filesync::BytesMessage;
use futures_util::{Stream, StreamExt, stream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::codec::{Codec, EncodeBuf, Encoder};
use tonic_prost::{ProstDecoder, ProstEncoder};

/// What the writer of a file says.
pub(super) enum Piece {
    Data(Bytes),
    End,
    /// Never sent, only inferred.
    Abandoned,
}

/// The pieces up to the end, which is either said or inferred from the writer's disappearance.
pub(super) fn until_end(pieces: mpsc::Receiver<Piece>) -> impl Stream<Item = Piece> + Send + 'static {
    let abandoned = stream::once(std::future::ready(Piece::Abandoned));
    let is_more = |piece: &Piece| std::future::ready(!matches!(piece, Piece::End));
    ReceiverStream::new(pieces).chain(abandoned).take_while(is_more)
}

#[derive(Default)]
pub(super) struct PieceCodec;

impl Codec for PieceCodec {
    type Encode = Piece;
    type Decode = BytesMessage;
    type Encoder = PieceEncoder;
    type Decoder = ProstDecoder<BytesMessage>;

    fn encoder(&mut self) -> Self::Encoder {
        PieceEncoder(ProstEncoder::default())
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstDecoder::default()
    }
}

pub(super) struct PieceEncoder(ProstEncoder<BytesMessage>);

impl Encoder for PieceEncoder {
    type Item = Piece;
    type Error = Status;

    fn encode(&mut self, piece: Piece, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        match piece {
            Piece::Data(data) => self.0.encode(BytesMessage { data }, buffer),
            Piece::End | Piece::Abandoned => Err(Status::cancelled("file was abandoned")),
        }
    }
}
