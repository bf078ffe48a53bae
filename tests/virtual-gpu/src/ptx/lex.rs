//! Splits PTX text into words, numbers and punctuation, each with its line.

/// What a token is; `text` of [`Token`] holds the characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A name, an opcode, a directive or a register: `mov.u32`, `.reg`, `%r1`, `$L__BB0_1`.
    Word,
    /// A literal: `12`, `0x10`, `0f3F800000`.
    Number,
    /// One character of punctuation.
    Punct,
    /// A quoted string, without its quotes.
    Text,
}

/// A piece of PTX.
#[derive(Clone, Copy, Debug)]
pub struct Token<'a> {
    /// What it is.
    pub kind: Kind,
    /// Its characters.
    pub text: &'a str,
    /// The line it starts on, counted from 1.
    pub line: u32,
}

impl Token<'_> {
    /// Whether this is the punctuation `c`.
    pub fn is(&self, c: char) -> bool {
        self.kind == Kind::Punct && self.text.starts_with(c)
    }
}

/// The tokens of `text`, without comments.
pub fn tokens(text: &str) -> Vec<Token<'_>> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(text.len() / 4);
    let (mut at, mut line) = (0, 1u32);
    let word = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'$' | b'%' | b'.');
    while at < bytes.len() {
        let c = bytes[at];
        if c == b'\n' {
            line += 1;
            at += 1;
        } else if c.is_ascii_whitespace() || c == 0 {
            at += 1;
        } else if bytes[at..].starts_with(b"//") {
            while at < bytes.len() && bytes[at] != b'\n' {
                at += 1;
            }
        } else if bytes[at..].starts_with(b"/*") {
            while at < bytes.len() && !bytes[at..].starts_with(b"*/") {
                line += u32::from(bytes[at] == b'\n');
                at += 1;
            }
            at += 2;
        } else if c == b'"' {
            let start = at + 1;
            at = start;
            while at < bytes.len() && bytes[at] != b'"' {
                at += 1;
            }
            out.push(Token { kind: Kind::Text, text: &text[start..at.min(text.len())], line });
            at += 1;
        } else if word(c) {
            let start = at;
            while at < bytes.len() && word(bytes[at]) {
                at += 1;
            }
            // `Name::suffix` as in `.L2::128B` or `.shared::cta` is one word.
            while bytes[at..].starts_with(b"::") {
                at += 2;
                while at < bytes.len() && word(bytes[at]) {
                    at += 1;
                }
            }
            let kind = if c.is_ascii_digit() { Kind::Number } else { Kind::Word };
            out.push(Token { kind, text: &text[start..at], line });
        } else {
            let size = text[at..].chars().next().map_or(1, char::len_utf8);
            out.push(Token { kind: Kind::Punct, text: &text[at..at + size], line });
            at += size;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instruction_is_split_and_numbered() {
        let all = tokens("// one\n@!%p1 ld.global.v2.f32 {%f1, %f2}, [%rd1+-4]; /* x\n */ $L:");
        let text: Vec<_> = all.iter().map(|t| t.text).collect();
        assert_eq!(text.join(" "), "@ ! %p1 ld.global.v2.f32 { %f1 , %f2 } , [ %rd1 + - 4 ] ; $L :");
        assert_eq!((all[0].line, all.last().unwrap().line), (2, 3));
    }
}
