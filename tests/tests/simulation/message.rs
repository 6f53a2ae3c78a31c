//! What clients and backends tell each other: who they are, so that whoever gets a message knows whether it was meant
//! for him.

/// A client's question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Question {
    /// Which client.
    pub(crate) client: u32,
    /// Which of its connections.
    pub(crate) connection: u32,
    /// Which question on it.
    pub(crate) number: u32,
    /// What the backend does about it.
    pub(crate) wish: Wish,
}

/// What a backend is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Wish {
    /// Answer.
    Answer,
    /// Answer and close.
    Close,
    /// Reset.
    Reset,
}

impl Question {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let words = [self.client, self.connection, self.number];
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
        bytes.push(self.wish as u8);
        bytes
    }

    /// Reads the question at the beginning of `bytes`.
    pub(crate) fn read(bytes: &[u8]) -> Self {
        let word = |at: usize| u32::from_be_bytes(*bytes[at..].first_chunk().expect("a whole question"));
        let wish = match bytes[12] {
            0 => Wish::Answer,
            1 => Wish::Close,
            2 => Wish::Reset,
            other => panic!("{other} is no wish"),
        };
        Self { client: word(0), connection: word(4), number: word(8), wish }
    }

    /// The answer of a backend: the question, and who answers.
    pub(crate) fn answer(&self, backend: usize) -> Vec<u8> {
        let mut bytes = self.bytes();
        bytes.push(backend as u8);
        bytes
    }
}

/// The backend that gave this answer.
pub(crate) fn who_answered(bytes: &[u8]) -> usize {
    usize::from(bytes[13])
}
