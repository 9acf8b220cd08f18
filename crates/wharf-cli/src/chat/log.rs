//! What was said in a room, as far back as is kept, and which part of it is looked at.

use std::collections::VecDeque;
use std::ops::Range;

use unicode_segmentation::UnicodeSegmentation as _;
use unicode_width::UnicodeWidthStr as _;

use super::input::cells;

/// One line, whatever rows it takes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) text: String,
    /// So many bytes of it are who said it.
    pub(super) speaker: usize,
    /// This program says it.
    pub(super) is_note: bool,
}

/// The lines; the newest are looked at, unless somebody has scrolled.
#[derive(Debug, Default)]
pub(super) struct Log {
    entries: VecDeque<Entry>,
    /// Entries that are no longer kept.
    forgotten: usize,
    /// The last entry that is looked at, counted from the first there ever was.
    bottom: Option<usize>,
}

impl Log {
    pub(super) fn push(&mut self, entry: Entry) {
        if self.entries.len() == ENTRIES_MAX {
            self.entries.pop_front();
            self.forgotten += 1;
        }
        self.entries.push_back(entry);
    }

    /// Entries below those that are looked at.
    pub(super) fn below(&self) -> usize {
        self.entries.len() - self.end()
    }

    /// What is looked at on `height` rows of `width` cells: entries and the bytes of each row, from the
    /// topmost.
    pub(super) fn shown(&self, width: usize, height: usize) -> Vec<(&Entry, Range<usize>)> {
        let mut shown = VecDeque::new();
        for entry in self.entries.range(..self.end()).rev() {
            for row in rows(&entry.text, width).into_iter().rev() {
                if shown.len() == height {
                    return shown.into();
                }
                shown.push_front((entry, row));
            }
        }
        shown.into()
    }

    /// Looks at what is a page above.
    pub(super) fn page_up(&mut self, width: usize, height: usize) {
        let first_page = self.entries_that_fill(0..self.entries.len(), width, height, false);
        let moved = self.entries_that_fill(0..self.end(), width, page(height), true);
        let end = (self.end() - moved).max(first_page);
        self.look_at(end);
    }

    /// Looks at what is a page below.
    pub(super) fn page_down(&mut self, width: usize, height: usize) {
        let all = self.end()..self.entries.len();
        let moved = self.entries_that_fill(all, width, page(height), false);
        self.look_at(self.end() + moved);
    }

    /// Looks at the newest again.
    pub(super) fn newest(&mut self) {
        self.bottom = None;
    }

    /// How many entries of a range, from its end or its start, have so many rows; one at least.
    fn entries_that_fill(
        &self,
        range: Range<usize>,
        width: usize,
        height: usize,
        from_the_end: bool,
    ) -> usize {
        let count = range.len();
        let mut height = height;
        let mut fits = |entry: &&Entry| {
            let fits = height > 0;
            height = height.saturating_sub(rows(&entry.text, width).len());
            fits
        };
        let entries = self.entries.range(range);
        let filled = if from_the_end {
            entries.rev().take_while(&mut fits).count()
        } else {
            entries.take_while(&mut fits).count()
        };
        filled.max(1).min(count)
    }

    fn look_at(&mut self, end: usize) {
        self.bottom = (end < self.entries.len()).then_some(self.forgotten + end);
    }

    /// Behind the last entry that is looked at. The oldest that is kept is, whatever was.
    fn end(&self) -> usize {
        let oldest = usize::from(!self.entries.is_empty());
        match self.bottom {
            Some(bottom) => bottom.saturating_sub(self.forgotten).max(oldest),
            None => self.entries.len(),
        }
    }
}

/// A page but for one row, which shows where one was.
fn page(height: usize) -> usize {
    height.saturating_sub(1).max(1)
}

/// The rows of a text where there are `width` cells: broken behind a space if there is one, and never
/// inside of what is seen as one character.
fn rows(text: &str, width: usize) -> Vec<Range<usize>> {
    let (mut rows, mut start, mut used) = (Vec::new(), 0, 0);
    let mut space = None;
    for (at, cluster) in text.grapheme_indices(true) {
        // Spaces may stand over: nobody sees them.
        while cluster != " " && used + cluster.width() > width && at > start {
            let end = space.take().unwrap_or(at);
            rows.push(start..end);
            start = end;
            used = cells(&text[start..at]);
        }
        used += cluster.width();
        if cluster == " " {
            space = Some(at + 1);
        }
    }
    rows.push(start..text.len());
    rows
}

/// As many as anybody reads again; at up to 300 bytes each, 3 MB.
const ENTRIES_MAX: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn log(entries: usize) -> Log {
        let mut log = Log::default();
        (0..entries).for_each(|number| say(&mut log, &number.to_string()));
        log
    }

    fn say(log: &mut Log, text: &str) {
        log.push(Entry { text: text.to_owned(), speaker: 0, is_note: false });
    }

    fn seen(log: &Log, height: usize) -> Vec<String> {
        let shown = log.shown(20, height).into_iter();
        shown.map(|(entry, row)| entry.text[row].to_owned()).collect()
    }

    #[test]
    fn rows_are_as_wide_as_they_may_be() {
        let broken =
            |text, width| rows(text, width).into_iter().map(|row| &text[row]).collect::<Vec<_>>();
        assert_eq!(broken("", 5), [""]);
        assert_eq!(broken("one two three", 7), ["one two ", "three"]);
        assert_eq!(broken("안녕하세요", 5), ["안녕", "하세", "요"]);
        assert_eq!(broken("a👨‍👩‍👧‍👦b👋🏽", 3), ["a👨‍👩‍👧‍👦", "b👋🏽"]);
        assert_eq!(broken("가나", 1), ["가", "나"], "what fits nowhere has a row of its own");
        assert_eq!(broken("ab", 0), ["a", "b"]);
        assert_eq!(broken("x 가나다", 6), ["x ", "가나다"]);
    }

    #[test]
    fn the_newest_are_seen_until_somebody_scrolls() {
        let mut log = log(10);
        assert_eq!(seen(&log, 3), ["7", "8", "9"]);
        log.page_up(20, 3);
        assert_eq!((seen(&log, 3), log.below()), (vec!["5".into(), "6".into(), "7".into()], 2));
        say(&mut log, "new");
        assert_eq!(seen(&log, 3), ["5", "6", "7"], "what comes does not move what is read");
        (0..9).for_each(|_| log.page_up(20, 3));
        assert_eq!(seen(&log, 3), ["0", "1", "2"], "a whole page at the top");
        log.page_down(20, 3);
        assert_eq!(seen(&log, 3), ["2", "3", "4"]);
        (0..9).for_each(|_| log.page_down(20, 3));
        assert_eq!((seen(&log, 3), log.below()), (vec!["8".into(), "9".into(), "new".into()], 0));
        say(&mut log, "newer");
        assert_eq!(seen(&log, 2), ["new", "newer"], "and follows again");
    }

    #[test]
    fn long_lines_are_counted_by_their_rows() {
        let mut log = log(2);
        say(&mut log, "a line that takes three rows, or perhaps four");
        say(&mut log, "last");
        assert_eq!(seen(&log, 2), ["perhaps four", "last"]);
        log.page_up(20, 4);
        assert_eq!(log.below(), 1, "{:?}", seen(&log, 4));
        assert_eq!(seen(&log, 3).len(), 3);
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let mut log = log(ENTRIES_MAX);
        log.page_up(20, 3);
        let before = seen(&log, 3);
        say(&mut log, "new");
        assert_eq!(seen(&log, 3), before);
        (0..2 * ENTRIES_MAX).for_each(|number| say(&mut log, &number.to_string()));
        assert_eq!(log.entries.len(), ENTRIES_MAX);
        assert_eq!(seen(&log, 3).len(), 1, "the oldest that is left");
        log.page_up(20, 3);
        assert_eq!(seen(&log, 3).len(), 3);
        let mut empty = Log::default();
        empty.page_up(20, 3);
        empty.page_down(20, 3);
        assert_eq!((seen(&empty, 3).len(), empty.below()), (0, 0));
    }
}
