//! The wire format of protocol buffers, as far as `tokenizer.model` needs it: numbered fields, nothing copied.

/// The value of a field.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Field<'a> {
    Varint(u64),
    Fixed32(u32),
    Fixed64(u64),
    /// A text, bytes or a message.
    Bytes(&'a [u8]),
}

/// The numbers and values of a message; a `None` where it is broken, and nothing behind that.
pub(crate) fn fields(mut message: &[u8]) -> impl Iterator<Item = Option<(u64, Field<'_>)>> {
    std::iter::from_fn(move || {
        if message.is_empty() {
            return None;
        }
        let field = field(&mut message);
        if field.is_none() {
            message = &[];
        }
        Some(field)
    })
}

fn field<'a>(message: &mut &'a [u8]) -> Option<(u64, Field<'a>)> {
    let tag = varint(message)?;
    let value = match tag & 7 {
        0 => Field::Varint(varint(message)?),
        1 => Field::Fixed64(u64::from_le_bytes(*message.split_off(..8)?.first_chunk()?)),
        2 => {
            let bytes = usize::try_from(varint(message)?).ok()?;
            Field::Bytes(message.split_off(..bytes)?)
        }
        5 => Field::Fixed32(u32::from_le_bytes(*message.split_off(..4)?.first_chunk()?)),
        _ => return None,
    };
    Some((tag >> 3, value))
}

/// Seven bits a byte, the lowest first, at most ten bytes.
fn varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..70).step_by(7) {
        let byte = *message.split_off_first()?;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
