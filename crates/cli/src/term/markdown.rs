//! Markdown on its way to a terminal. What was written is never changed, so a text is held back as long as the next character
//! could change how it looks: the beginning of a line until it is known what it begins, a word until its end, as it may
//! belong on the next row.
//!
//! Known are headings, lists, quotes, rules, fenced code, tables as they stand, emphasis and code within a line. A mark that
//! begins an emphasis which never ends is lost; all else that is not known stays as it is.

use std::borrow::Cow;
use std::fmt::Write;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::printable;

/// Rows of text are no wider, as longer ones are hard to read.
const COLUMNS_MAX: usize = 100;

/// How a character looks.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Style {
    bold: bool,
    italic: bool,
    dim: bool,
    underlined: bool,
    code: bool,
}

const PLAIN: Style = Style { bold: false, italic: false, dim: false, underlined: false, code: false };
const DIM: Style = Style { dim: true, ..PLAIN };

/// Where in the text the next character is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    /// At the beginning of a line, which is held back.
    Start,
    Inline,
    /// In a line that is shown as it stands.
    Row,
    /// In a fenced block, at the beginning of a line, which is held back.
    CodeStart,
    Code,
}

/// What a line begins.
#[derive(Debug, PartialEq, Eq)]
enum Begin {
    Blank,
    Text,
    /// A table.
    Row,
    Rule,
    /// With its level, and the bytes before its text.
    Heading(usize, usize),
    /// With the mark as it is shown, and the bytes before its text.
    Item(String, usize),
    /// With the bytes before its text, which may begin something else.
    Quote(usize),
    /// With its mark, and how many there are.
    Fence(char, usize),
}

/// A text that is rendered while it comes; how it is cut makes no difference.
pub struct Markdown {
    at: At,
    /// The beginning of a line that is not decided.
    line: String,
    /// Marks of emphasis or code that are not decided: all the same character.
    marks: String,
    escaped: bool,
    /// The last character before `marks`, or of the text.
    before: char,
    /// Of the inline code that has begun, how many marks end it.
    code_marks: Option<usize>,
    fence: (char, usize),
    heading: usize,
    bold: bool,
    italic: bool,
    page: Page,
}

impl Markdown {
    /// A text at its beginning.
    pub fn new() -> Markdown {
        Markdown {
            at: At::Start,
            line: String::new(),
            marks: String::new(),
            escaped: false,
            before: ' ',
            code_marks: None,
            fence: (' ', 0),
            heading: 0,
            bold: false,
            italic: false,
            page: Page::default(),
        }
    }

    /// Takes the next piece, and gives what can be written of the text now, on a terminal of so many columns.
    pub fn push(&mut self, text: &str, columns: usize) -> String {
        self.page.columns = columns.min(COLUMNS_MAX);
        for c in printable(text).chars() {
            self.take(c);
        }
        std::mem::take(&mut self.page.out)
    }

    /// The text ends: gives the rest, to the end of its line.
    pub fn finish(&mut self) -> String {
        while self.at == At::Start && !self.line.is_empty() {
            self.begin_line(true);
        }
        if self.at == At::CodeStart && !self.line.is_empty() {
            self.code_line(true);
        }
        self.end_inline();
        if self.page.row_begun() {
            self.page.end_line();
        }
        std::mem::take(&mut self.page.out)
    }

    fn take(&mut self, c: char) {
        match (self.at, c) {
            (At::Start, '\n') => {
                self.begin_line(true);
                self.end_line();
            }
            (At::Start, _) => {
                self.line.push(c);
                self.begin_line(false);
            }
            (At::CodeStart, '\n') => self.code_line(true),
            (At::CodeStart, _) => {
                self.line.push(c);
                self.code_line(false);
            }
            (At::Code, '\n') => {
                self.page.end_line();
                self.at = At::CodeStart;
            }
            (At::Inline | At::Row, '\n') => self.end_line(),
            (At::Inline, _) => self.inline(c),
            (At::Row | At::Code, _) => self.page.put_raw(c),
        }
    }

    fn end_line(&mut self) {
        if matches!(self.at, At::CodeStart | At::Code) {
            return;
        }
        self.end_inline();
        self.code_marks = None;
        self.heading = 0;
        self.before = ' ';
        self.page.end_line();
        self.at = At::Start;
    }

    /// Decides what the line begins, if that is known. `whole`: no more of it comes.
    fn begin_line(&mut self, whole: bool) {
        let Some(begin) = decide(&self.line, whole) else { return };
        let line = std::mem::take(&mut self.line);
        if begin != Begin::Text {
            (self.bold, self.italic) = (false, false);
        }
        let text_at = match begin {
            Begin::Blank => line.len(),
            Begin::Row => {
                self.at = At::Row;
                line.chars().for_each(|c| self.page.put_raw(c));
                return;
            }
            Begin::Rule => {
                let columns = self.page.columns.min(40);
                (0..columns).for_each(|_| self.page.put_as(DIM, '─'));
                line.len()
            }
            Begin::Heading(level, text_at) => {
                self.heading = level;
                text_at
            }
            Begin::Item(mark, text_at) => {
                mark.chars().for_each(|c| self.page.put_raw(c));
                self.page.hang.push_str(&" ".repeat(mark.chars().count()));
                text_at
            }
            Begin::Quote(text_at) => {
                "│ ".chars().for_each(|c| self.page.put_as(DIM, c));
                self.page.hang.push_str("│ ");
                // What is quoted may begin something, too.
                line[text_at..].chars().for_each(|c| self.take(c));
                return;
            }
            Begin::Fence(mark, count) => {
                line.chars().for_each(|c| self.page.put_as(DIM, c));
                self.page.end_line();
                self.fence = (mark, count);
                self.at = At::CodeStart;
                return;
            }
            Begin::Text => {
                let text_at = line.len() - line.trim_start().len();
                line[..text_at].chars().for_each(|c| self.page.put_raw(c));
                self.page.hang.push_str(&" ".repeat(text_at));
                text_at
            }
        };
        self.at = At::Inline;
        line[text_at..].chars().for_each(|c| self.inline(c));
    }

    /// Shows a line of code as soon as it cannot be the end of the block.
    fn code_line(&mut self, whole: bool) {
        let (mark, count) = self.fence;
        let marks = self.line.trim();
        let ends = marks.chars().all(|c| c == mark);
        let closed = ends && marks.len() >= count;
        if !whole && ends {
            return;
        }
        let line = std::mem::take(&mut self.line);
        if whole && closed {
            line.chars().for_each(|c| self.page.put_as(DIM, c));
            self.page.end_line();
            self.at = At::Start;
            return;
        }
        line.chars().for_each(|c| self.page.put_raw(c));
        if whole {
            self.page.end_line();
        } else {
            self.at = At::Code;
        }
    }

    fn inline(&mut self, c: char) {
        if !self.marks.is_empty() && !self.marks.starts_with(c) {
            self.decide_marks(c);
        }
        if std::mem::take(&mut self.escaped) {
            if !"\\`*_#~|<>+-.!$".contains(c) {
                self.put('\\');
            }
            return self.put(c);
        }
        match c {
            '`' => self.marks.push(c),
            '*' | '_' if self.code_marks.is_none() => self.marks.push(c),
            '\\' if self.code_marks.is_none() => self.escaped = true,
            _ => self.put(c),
        }
    }

    fn end_inline(&mut self) {
        if !self.marks.is_empty() {
            self.decide_marks('\n');
        }
        if std::mem::take(&mut self.escaped) {
            self.put('\\');
        }
    }

    fn put(&mut self, c: char) {
        self.before = c;
        let code = self.code_marks.is_some();
        let style = Style {
            bold: self.bold || self.heading > 0,
            italic: self.italic,
            underlined: self.heading == 1,
            dim: false,
            code,
        };
        self.page.put(c, style);
    }

    /// Decides what marks mean that `next` follows.
    fn decide_marks(&mut self, next: char) {
        let marks = std::mem::take(&mut self.marks);
        let (mark, count) = (marks.chars().next().unwrap_or(' '), marks.len());
        if mark == '`' {
            match self.code_marks {
                None => self.code_marks = Some(count),
                Some(open) if open == count => {
                    self.code_marks = None;
                    self.before = mark;
                }
                Some(_) => marks.chars().for_each(|c| self.put(c)),
            }
            return;
        }
        // CommonMark 0.31, section 6.2: runs of marks beside words.
        let punctuation = |c: char| !c.is_alphanumeric() && !c.is_whitespace();
        let (before, after) = (self.before, next);
        let left = !after.is_whitespace() && (!punctuation(after) || before.is_whitespace() || punctuation(before));
        let right = !before.is_whitespace() && (!punctuation(before) || after.is_whitespace() || punctuation(after));
        let (opens, closes) = match mark {
            '_' => (left && (!right || punctuation(before)), right && (!left || punctuation(after))),
            _ => (left, right),
        };
        let mut rest = if count > 3 { 0 } else { count };
        let mut literal = count - rest;
        while rest > 0 {
            let two = rest >= 2;
            let style = if two { &mut self.bold } else { &mut self.italic };
            let turns = if *style { closes } else { opens };
            *style ^= turns;
            let used = if two { 2 } else { 1 };
            literal += if turns { 0 } else { used };
            rest -= used;
        }
        (0..literal).for_each(|_| self.put(mark));
    }
}

/// What a line begins, as far as it has come; `None` while that is not known.
fn decide(line: &str, whole: bool) -> Option<Begin> {
    let text = line.trim_start();
    let indent = line.len() - text.len();
    let known = |begin: Begin| Some(begin);
    let unless_more = |begin: Begin| whole.then_some(begin);
    let Some(first) = text.chars().next() else { return unless_more(Begin::Blank) };
    let run = text.chars().take_while(|&c| c == first).count();
    let rest = &text[run * first.len_utf8()..];
    match first {
        '#' if run > 6 => known(Begin::Text),
        '#' if rest.is_empty() => unless_more(Begin::Heading(run, line.len())),
        '#' if rest.starts_with(' ') => match rest.trim_start() {
            "" => unless_more(Begin::Heading(run, line.len())),
            title => known(Begin::Heading(run, line.len() - title.len())),
        },
        '`' | '~' if rest.is_empty() || run >= 3 && !rest.contains('`') => {
            unless_more(if run >= 3 { Begin::Fence(first, run) } else { Begin::Text })
        }
        '-' | '*' | '_' | '+' => {
            let marks = text.chars().filter(|&c| c == first).count();
            let only = text.chars().all(|c| c == first || c == ' ');
            let item = first != '_' && text[1..].starts_with(' ');
            if only && !whole {
                None
            } else if only && marks >= 3 && first != '+' {
                known(Begin::Rule)
            } else if item {
                let spaces = text[1..].len() - text[1..].trim_start().len();
                known(Begin::Item(format!("{}• ", " ".repeat(indent)), indent + 1 + spaces))
            } else {
                known(Begin::Text)
            }
        }
        '0'..='9' => {
            let digits = text.chars().take_while(char::is_ascii_digit).count();
            let mut after = text[digits..].chars();
            match (after.next(), after.next()) {
                _ if digits > 9 => known(Begin::Text),
                (None, _) | (Some('.' | ')'), None) => unless_more(Begin::Text),
                (Some('.' | ')'), Some(' ')) => {
                    let mark = format!("{}{} ", " ".repeat(indent), &text[..=digits]);
                    known(Begin::Item(mark, indent + digits + 2))
                }
                _ => known(Begin::Text),
            }
        }
        '>' => match text.chars().nth(1) {
            None => unless_more(Begin::Quote(line.len())),
            Some(' ') => known(Begin::Quote(indent + 2)),
            Some(_) => known(Begin::Quote(indent + 1)),
        },
        '|' => known(Begin::Row),
        _ => known(Begin::Text),
    }
}

/// Text that is dimmed and has no marks, such as thoughts, on its way to a terminal.
#[derive(Default)]
pub struct Dimmed(Page);

impl Dimmed {
    /// Takes the next piece, and gives what can be written of it now, on a terminal of so many columns.
    pub fn push(&mut self, text: &str, columns: usize) -> String {
        self.0.columns = columns.min(COLUMNS_MAX);
        for c in printable(text).chars() {
            if c == '\n' { self.0.end_line() } else { self.0.put(c, DIM) }
        }
        std::mem::take(&mut self.0.out)
    }

    /// The text ends: gives the rest, to the end of its line.
    pub fn finish(&mut self) -> String {
        if self.0.row_begun() {
            self.0.end_line();
        }
        std::mem::take(&mut self.0.out)
    }
}

/// A text in rows of so many columns, where it is wider, broken between words. Further rows of a line begin below what follows
/// its first gap of two spaces, as of a name before what is said of it; or below its beginning.
pub fn in_rows(text: &str, columns: usize) -> Cow<'_, str> {
    if text.lines().all(|line| line.width() <= columns) {
        return text.into();
    }
    let mut page = Page { columns, ..Page::default() };
    for line in text.lines() {
        let indent = line.len() - line.trim_start_matches(' ').len();
        let gap = line[indent..].find("  ").map(|at| &line[..indent + at]);
        let hang =
            gap.map_or(indent, |name| name.width() + line[name.len()..].chars().take_while(|&c| c == ' ').count());
        page.hang = " ".repeat(if hang <= columns / 2 { hang } else { 0 });
        line.chars().for_each(|c| page.put(c, PLAIN));
        page.end_line();
    }
    page.out.truncate(page.out.trim_end_matches('\n').len());
    page.out.into()
}

/// Rows of a terminal, filled word by word.
struct Page {
    columns: usize,
    /// What is to be written now.
    out: String,
    /// The column of the cursor, when `out` is written.
    column: usize,
    /// White space that is written if a word follows on the same row.
    spaces: usize,
    /// A word without its end, with its styles.
    word: String,
    word_columns: usize,
    /// The style at the end of `word`.
    style: Style,
    /// The last word was an ideograph, after which a row may end.
    ideograph: bool,
    /// What further rows of this line begin with.
    hang: String,
}

impl Default for Page {
    fn default() -> Page {
        Page {
            columns: COLUMNS_MAX,
            out: String::new(),
            column: 0,
            spaces: 0,
            word: String::new(),
            word_columns: 0,
            style: PLAIN,
            ideograph: false,
            hang: String::new(),
        }
    }
}

impl Page {
    fn row_begun(&self) -> bool {
        self.column > 0 || self.spaces > 0 || !self.word.is_empty()
    }

    /// A character of a text that is broken into rows between words.
    fn put(&mut self, c: char, style: Style) {
        if c == ' ' || c == '\t' {
            self.end_word();
            self.spaces += 1;
            return;
        }
        let columns = c.width().unwrap_or(0);
        let ideograph = columns > 1;
        if ideograph {
            self.end_word();
        }
        self.restyle(style);
        self.word.push(c);
        self.word_columns += columns;
        // A word that does not fit this row need not be waited for.
        if ideograph || self.word_columns + self.spaces + self.column > self.columns {
            self.end_word();
        }
        self.ideograph = ideograph;
    }

    /// A character where it stands, whatever the width of the row.
    fn put_raw(&mut self, c: char) {
        self.put_as(PLAIN, c);
    }

    fn put_as(&mut self, style: Style, c: char) {
        self.restyle(style);
        self.end_word();
        self.out.push(c);
        self.column += c.width().unwrap_or(0);
    }

    /// Writes the word, on the next row where it does not fit this one. What is longer than a row is the terminal's to break.
    fn end_word(&mut self) {
        if self.word_columns > 0 {
            let hang = self.hang.chars().count();
            let wide = self.column + self.spaces + self.word_columns > self.columns;
            if wide && self.column > hang && (self.spaces > 0 || self.ideograph) {
                self.out.push('\n');
                self.out.push_str(&self.hang);
                (self.column, self.spaces) = (hang, 0);
            }
            self.out.extend(std::iter::repeat_n(' ', self.spaces));
            self.column = (self.column + self.spaces + self.word_columns).min(self.columns);
            (self.spaces, self.word_columns) = (0, 0);
        }
        self.out.push_str(&self.word);
        self.word.clear();
    }

    fn end_line(&mut self) {
        self.restyle(PLAIN);
        self.end_word();
        self.out.push('\n');
        self.column = 0;
        self.spaces = 0;
        self.hang.clear();
    }

    fn restyle(&mut self, style: Style) {
        if style == self.style {
            return;
        }
        self.style = style;
        // A style ends before white space, and begins after it.
        let to = if style == PLAIN && self.word.is_empty() { &mut self.out } else { &mut self.word };
        to.push_str("\x1b[0");
        let codes = [(style.bold, 1), (style.dim, 2), (style.italic, 3), (style.underlined, 4), (style.code, 36)];
        for (_, code) in codes.iter().filter(|(on, _)| *on) {
            let _ = write!(to, ";{code}");
        }
        to.push('m');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = "# A title\n\nSome *soft*, some **loud** and ***both***, `code with ** in it` and 2 * 3 * 4, snake_case_name.\n\n\
        - one\n- two with a text that is long enough to need a second row, I should think\n  - nested\n* star\n1. first\n22) second\n\n\
        > quoted **text**\n> - with an item\n\n---\n\n```rust\nfn main() {\n    println!(\"**not bold**\");\n}\n```\n\n| a | b |\n|---|---|\n| 1 | `2` |\n\n\
        ####### seven\n#no heading\n-no item\n**Bold** at the start\n\\*escaped\\* \\(math\\) a\\\n漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字\nend";

    fn render(pieces: &[&str], columns: usize) -> String {
        let mut markdown = Markdown::new();
        let mut out: String = pieces.iter().map(|piece| markdown.push(piece, columns)).collect();
        out.push_str(&markdown.finish());
        out
    }

    /// Without its styles.
    fn plain(rendered: &str) -> String {
        let mut parts = rendered.split("\x1b[");
        let first = parts.next().unwrap_or_default().to_owned();
        parts.fold(first, |text, part| text + part.split_once('m').expect("a style").1)
    }

    #[test]
    fn how_a_text_is_cut_makes_no_difference() {
        let whole = render(&[SAMPLE], 50);
        let chars: Vec<String> = SAMPLE.chars().map(String::from).collect();
        let chars: Vec<&str> = chars.iter().map(String::as_str).collect();
        assert_eq!(render(&chars, 50), whole);
        for cut in (0..SAMPLE.len()).filter(|&at| SAMPLE.is_char_boundary(at)) {
            assert_eq!(render(&[&SAMPLE[..cut], &SAMPLE[cut..]], 50), whole, "cut at {cut}");
        }
    }

    #[test]
    fn blocks_look_as_they_should() {
        let shown = plain(&render(&[SAMPLE], 50));
        let expected = "A title\n\nSome soft, some loud and both, code with ** in it\nand 2 * 3 * 4, snake_case_name.\n\n\
            • one\n• two with a text that is long enough to need a\n  second row, I should think\n  • nested\n• star\n1. first\n22) second\n\n\
            │ quoted text\n│ • with an item\n\n────────────────────────────────────────\n\n```rust\nfn main() {\n    println!(\"**not bold**\");\n}\n```\n\n\
            | a | b |\n|---|---|\n| 1 | `2` |\n\n####### seven\n#no heading\n-no item\nBold at the start\n*escaped* \\(math\\) a\\\n\
            漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢\n字漢字\nend\n";
        assert_eq!(shown, expected);
    }

    #[test]
    fn emphasis_begins_and_ends_where_it_stands() {
        assert_eq!(render(&["a *b* c"], 80), "a \x1b[0;3mb\x1b[0m c\n");
        assert_eq!(render(&["**a**b"], 80), "\x1b[0;1ma\x1b[0mb\n");
        assert_eq!(render(&["`a`"], 80), "\x1b[0;36ma\x1b[0m\n");
        assert_eq!(render(&["# a"], 80), "\x1b[0;1;4ma\x1b[0m\n");
        assert_eq!(plain(&render(&["**open\n\nnext *line"], 80)), "open\n\nnext line\n");
        // An emphasis ends with its paragraph, and code with its line.
        assert_eq!(render(&["**a\n\nb"], 80), "\x1b[0;1ma\x1b[0m\n\nb\n");
        assert_eq!(render(&["`a\nb"], 80), "\x1b[0;36ma\x1b[0m\nb\n");
    }

    #[test]
    fn text_is_shown_as_it_comes() {
        let mut markdown = Markdown::new();
        assert_eq!(markdown.push("Once upon", 80), "Once");
        assert_eq!(markdown.push(" a", 80), " upon");
        assert_eq!(markdown.push(" time\n", 80), " a time\n");
        assert_eq!(markdown.push("```\nlet x", 80), "\x1b[0;2m```\x1b[0m\nlet x", "code waits for nothing");
        assert_eq!(markdown.push(" = 1;", 80), " = 1;");
        assert_eq!(markdown.push("\n``", 80), "\n");
        assert_eq!(markdown.push("`\nx y", 80), "\x1b[0;2m```\x1b[0m\nx");
        assert_eq!(markdown.finish(), " y\n");
        // A word without an end fills its row and goes on.
        let mut markdown = Markdown::new();
        let shown = markdown.push(&"x".repeat(500), 20);
        assert!(shown.len() >= 480, "{shown}");
    }

    #[test]
    fn what_a_model_says_cannot_steer_the_terminal() {
        let shown = render(&["a\x1b[2Jb **c\x1b]0;title\x07**"], 80);
        assert_eq!(plain(&shown), "a\u{fffd}[2Jb c\u{fffd}]0;title\u{fffd}\n");
    }

    #[test]
    fn no_row_is_wider_than_the_terminal() {
        let text = "word ".repeat(60) + &"and a-longer-word **with emphasis** ".repeat(20);
        for columns in [10, 17, 40, 79] {
            for row in plain(&render(&[&text], columns)).lines() {
                let longest = 13;
                assert!(row.chars().count() <= columns.max(longest), "{row:?} in {columns} columns");
            }
        }
    }

    #[test]
    fn thoughts_are_dimmed_and_keep_their_marks() {
        let mut dimmed = Dimmed::default();
        let mut shown = dimmed.push("so *what* is", 80);
        shown.push_str(&dimmed.finish());
        assert_eq!(shown, "\x1b[0;2mso *what* is\x1b[0m\n");
    }

    #[test]
    fn notes_are_broken_between_words_below_what_they_say() {
        assert_eq!(in_rows("name      what it is", 20), "name      what it is");
        assert_eq!(
            in_rows("name      what it is, in words", 20),
            "name      what it\n          is, in\n          words"
        );
        assert_eq!(in_rows("  one two three four five", 12), "  one two\n  three four\n  five");
        assert_eq!(in_rows("short\nlonger than a row", 9), "short\nlonger\nthan a\nrow");
    }
}
