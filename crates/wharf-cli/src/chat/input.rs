//! The line that is being typed. It moves, deletes and scrolls by what people see as one character: a
//! syllable that was put together from several code points, or an emoji with its modifiers.

use unicode_segmentation::UnicodeSegmentation as _;
use unicode_width::UnicodeWidthStr as _;

/// Cells that a text takes on a terminal.
pub(super) fn cells(text: &str) -> usize {
    text.graphemes(true).map(|cluster| cluster.width()).sum()
}

/// What is being typed, and the lines that were.
#[derive(Debug, Default)]
pub(super) struct Input {
    text: String,
    /// A byte, between two clusters.
    cursor: usize,
    history: Vec<String>,
    /// The line of the history that is shown, and what was being typed before.
    recalled: Option<(usize, String)>,
}

impl Input {
    /// Puts a text at the cursor, as far as a line may become. Line ends in it are spaces.
    pub(super) fn insert(&mut self, text: &str) {
        let clean = |c: char| if matches!(c, '\n' | '\r' | '\t') { ' ' } else { c };
        let text: String =
            text.replace("\r\n", " ").chars().map(clean).filter(|c| !c.is_control()).collect();
        let mut room = BYTES_MAX.saturating_sub(self.text.len());
        // A cluster fits whole or not at all, and what comes behind it is not put in its place.
        let fits = |cluster: &&str| {
            let fits = cluster.len() <= room;
            room = if fits { room - cluster.len() } else { 0 };
            fits
        };
        let text: String = text.graphemes(true).take_while(fits).collect();
        self.text.insert_str(self.cursor, &text);
        self.cursor = self.boundary_from(self.cursor + text.len());
    }

    /// Bytes that the line may still become longer.
    pub(super) fn room(&self) -> usize {
        BYTES_MAX.saturating_sub(self.text.len())
    }

    /// Takes the line away, to be sent.
    pub(super) fn take(&mut self) -> String {
        let text = std::mem::take(&mut self.text);
        (self.cursor, self.recalled) = (0, None);
        if !text.is_empty() && self.history.last() != Some(&text) {
            if self.history.len() == HISTORY_MAX {
                self.history.remove(0);
            }
            self.history.push(text.clone());
        }
        text
    }

    pub(super) fn left(&mut self) {
        self.cursor = self.before();
    }

    pub(super) fn right(&mut self) {
        self.cursor = self.after();
    }

    pub(super) fn start(&mut self) {
        self.cursor = 0;
    }

    pub(super) fn end(&mut self) {
        self.cursor = self.text.len();
    }

    pub(super) fn backspace(&mut self) {
        self.remove_from(self.before());
    }

    pub(super) fn delete(&mut self) {
        self.text.drain(self.cursor..self.after());
    }

    /// Deletes the word before the cursor.
    pub(super) fn delete_word(&mut self) {
        let before = self.text[..self.cursor].trim_end();
        self.remove_from(before.rfind(' ').map_or(0, |space| space + 1));
    }

    /// Deletes all before the cursor.
    pub(super) fn delete_to_start(&mut self) {
        self.remove_from(0);
    }

    /// Shows the line that was sent before.
    pub(super) fn older(&mut self) {
        let shown = self.recalled.as_ref().map_or(self.history.len(), |(line, _)| *line);
        let Some(older) = shown.checked_sub(1) else { return };
        let draft = match self.recalled.take() {
            Some((_, draft)) => draft,
            None => std::mem::take(&mut self.text),
        };
        self.recalled = Some((older, draft));
        self.show(self.history[older].clone());
    }

    /// Shows the line that was sent after, at last what was being typed.
    pub(super) fn newer(&mut self) {
        let Some((line, draft)) = self.recalled.take() else { return };
        match self.history.get(line + 1) {
            Some(newer) => {
                let newer = newer.clone();
                self.recalled = Some((line + 1, draft));
                self.show(newer);
            }
            None => self.show(draft),
        }
    }

    /// What is shown where there are `width` cells, and in which of them the cursor stands.
    pub(super) fn shown(&self, width: usize) -> (&str, usize) {
        let mut start = 0;
        let mut cursor = cells(&self.text[..self.cursor]);
        // The cursor needs a cell of its own, behind what is before it.
        for cluster in self.text[..self.cursor].graphemes(true) {
            if cursor < width {
                break;
            }
            start += cluster.len();
            cursor -= cluster.width();
        }
        (&self.text[start..], cursor)
    }

    fn show(&mut self, text: String) {
        self.text = text;
        self.cursor = self.text.len();
    }

    fn remove_from(&mut self, start: usize) {
        self.text.drain(start..self.cursor);
        // What is left on both sides may be one cluster now.
        self.cursor = self.boundary_from(start);
    }

    fn before(&self) -> usize {
        let cluster = self.text[..self.cursor].graphemes(true).next_back();
        self.cursor - cluster.map_or(0, str::len)
    }

    fn after(&self) -> usize {
        let cluster = self.text[self.cursor..].graphemes(true).next();
        self.cursor + cluster.map_or(0, str::len)
    }

    /// The first place from `byte` on that is between two clusters.
    fn boundary_from(&self, byte: usize) -> usize {
        let starts = self.text.grapheme_indices(true).map(|(start, _)| start);
        starts.chain([self.text.len()]).find(|start| *start >= byte).unwrap_or(byte)
    }
}

/// A chat's text has at most so many bytes.
const BYTES_MAX: usize = wharf_chat::packets::TEXT_BYTES - 1;
/// Lines that can be called back; the oldest are forgotten.
const HISTORY_MAX: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(text: &str) -> Input {
        let mut input = Input::default();
        text.chars().for_each(|c| input.insert(c.encode_utf8(&mut [0; 4])));
        input
    }

    #[test]
    fn what_is_seen_as_one_character_is_one() {
        // Each comes code point by code point, as terminals send them.
        for (text, cells_wide) in [
            ("한", 2),
            ("\u{1112}\u{1161}\u{11ab}", 2),
            ("e\u{301}", 1),
            ("👋🏽", 2),
            ("👨‍👩‍👧‍👦", 2),
            ("🇰🇷", 2),
        ] {
            let mut input = typed(text);
            input.insert("b");
            input.start();
            input.insert("a");
            assert_eq!((&*input.text, cells(&input.text)), (&*format!("a{text}b"), cells_wide + 2));
            assert_eq!(input.shown(80).1, 1);
            input.right();
            assert_eq!(input.shown(80).1, 1 + cells_wide, "{text}");
            input.backspace();
            assert_eq!((&*input.text, input.shown(80).1), ("ab", 1), "{text}");
            let mut input = typed(text);
            input.left();
            input.delete();
            assert_eq!(&*input.text, "", "{text}");
        }
    }

    #[test]
    fn the_cursor_never_stands_inside_of_a_character() {
        let mut input = typed("👨👩");
        input.left();
        // Joins both into one.
        input.insert("\u{200d}");
        assert_eq!(input.shown(80).1, 2, "behind both, which have become one");
        input.backspace();
        assert_eq!(&*input.text, "");
        let mut input = typed("a-\u{301}");
        input.left();
        input.backspace();
        assert_eq!((&*input.text, input.shown(9).1), ("-\u{301}", 0));
    }

    #[test]
    fn the_cursor_stays_in_sight() {
        let mut input = typed("가나다라마");
        assert_eq!(input.shown(6), ("라마", 4), "a cell is kept for the cursor");
        assert_eq!(input.shown(11), ("가나다라마", 10));
        input.start();
        assert_eq!(input.shown(6), ("가나다라마", 0));
        input.end();
        for width in 0..20 {
            let (_, cursor) = input.shown(width);
            assert!(cursor < width.max(1));
        }
    }

    #[test]
    fn a_line_takes_what_a_packet_takes() {
        let mut input = typed(&"가".repeat(100));
        assert_eq!((input.text.len(), input.room()), (255, 1));
        input.insert("나a");
        assert_eq!(input.room(), 1, "not what comes behind what did not fit");
        input.insert("a");
        assert_eq!(input.room(), 0);
        let mut input = typed("");
        input.insert("one\r\ntwo\tthree\u{1b}");
        assert_eq!(&*input.text, "one two three");
    }

    #[test]
    fn words_and_lines_are_deleted() {
        let mut input = typed("one 두 three ");
        input.delete_word();
        assert_eq!(&*input.text, "one 두 ");
        input.delete_word();
        input.delete_word();
        input.delete_word();
        assert_eq!(&*input.text, "");
        let mut input = typed("one two");
        input.left();
        input.delete_to_start();
        assert_eq!((&*input.text, input.shown(9).1), ("o", 0));
    }

    #[test]
    fn lines_are_called_back() {
        let mut input = typed("one");
        assert_eq!(input.take(), "one");
        input.insert("둘");
        input.take();
        input.insert("draft");
        for (older, expected) in
            [(true, "둘"), (true, "one"), (true, "one"), (false, "둘"), (false, "draft")]
        {
            if older {
                input.older()
            } else {
                input.newer()
            }
            assert_eq!(&*input.text, expected);
        }
        input.newer();
        assert_eq!(&*input.text, "draft");
        for line in 0..2 * HISTORY_MAX {
            input.insert(&line.to_string());
            input.take();
        }
        assert_eq!(input.history.len(), HISTORY_MAX);
    }
}
