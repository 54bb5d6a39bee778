// Colours for code: comments, strings, numbers, words of the language, names that are called. Not a parser.

const WORDS = new Set(
  ("abstract and as assert async await break case catch class const continue crate def default defer del do else enum " +
    "except export extends extern false final finally fn for from func function global go goto if impl implements import in " +
    "instanceof interface is lambda let loop match mod move mut new nil none None not null or package pass private protected " +
    "pub public raise ref return select self Self static struct super switch then this throw trait true True False try type " +
    "typeof undefined unless until use using var virtual void volatile where while with yield end begin echo fi esac done " +
    "SELECT FROM WHERE INSERT UPDATE DELETE INTO VALUES JOIN ON GROUP BY ORDER LIMIT CREATE TABLE AS AND OR NOT NULL"
  ).split(" "),
);

const HASH = /^(py|python|sh|bash|shell|zsh|console|rb|ruby|yaml|yml|toml|ini|r|perl|make|makefile|dockerfile|elixir|nix|conf)$/;
const DASH = /^(sql|lua|haskell|hs|ada|elm)$/;

function pattern(language) {
  const comments = HASH.test(language) ? "#[^\\n]*" : DASH.test(language) ? "--[^\\n]*" : "\\/\\/[^\\n]*|\\/\\*[\\s\\S]*?(?:\\*\\/|$)|<!--[\\s\\S]*?(?:-->|$)";
  const strings = '"(?:\\\\.|[^"\\\\\\n])*"?|`(?:\\\\.|[^`\\\\])*`?|\'(?:\\\\.|[^\'\\\\\\n])*\'';
  return new RegExp(`(${comments})|(${strings})|(\\b\\d\\w*(?:\\.\\d\\w*)?)|([A-Za-z_][\\w]*)(?=(\\s*\\()?)`, "g");
}

/** The parts of a code block, as nodes. */
export function coloured(text, language) {
  const out = document.createDocumentFragment();
  const plain = !language || /^(text|txt|plain|output|csv|md|markdown)$/.test(language);
  if (plain) {
    out.append(text);
    return out;
  }
  let at = 0;
  for (const found of text.matchAll(pattern(language.toLowerCase()))) {
    const [whole, comment, string, number, word, called] = found;
    const kind = comment ? "c-note" : string ? "c-text" : number ? "c-number" : WORDS.has(word) ? "c-word" : called ? "c-call" : "";
    if (!kind) continue;
    out.append(text.slice(at, found.index));
    const span = document.createElement("span");
    span.className = kind;
    span.textContent = whole;
    out.append(span);
    at = found.index + whole.length;
  }
  out.append(text.slice(at));
  return out;
}
