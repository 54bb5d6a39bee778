// The page's own Markdown, in the browser it is for: what CommonMark and GitHub make of these, and nothing that a model could
// do harm with.

import { strict as assert } from "node:assert";
import { run } from "./browser.mjs";

/** Markdown, and the nodes it is to become. */
const CASES = [
  ["a *b* **c** ***d*** ~~e~~ `f`", "<p>a <em>b</em> <strong>c</strong> <em><strong>d</strong></em> <s>e</s> <code>f</code></p>"],
  ["snake_case_name and _so_ on, 2*3*4", "<p>snake_case_name and <em>so</em> on, 2<em>3</em>4</p>"],
  ["**open and \\*escaped\\* `` a`b ``", "<p>**open and *escaped* <code>a`b</code></p>"],
  ["2 * 3 * 4 and a ** b", "<p>2 * 3 * 4 and a ** b</p>"],
  ["one\ntwo\n\nthree", "<p>one<br>two</p><p>three</p>"],
  ["# A\n## B *c*", "<h3>A</h3><h4>B <em>c</em></h4>"],
  ["- a\n- b\n  - c\n\n    d\n- e", "<ul><li>a</li><li>b<ul><li><p>c</p><p>d</p></li></ul></li><li>e</li></ul>"],
  ["3. a\n4. b", '<ol start="3"><li>a</li><li>b</li></ol>'],
  ["- [x] done\n- [ ] open", '<ul><li class="task"><input type="checkbox" disabled="" checked="" aria-label="done">done</li><li class="task"><input type="checkbox" disabled="" aria-label="to do">open</li></ul>'],
  ["> a\n> - b\n\nc", "<blockquote><p>a</p><ul><li>b</li></ul></blockquote><p>c</p>"],
  ["---\n\n***", "<hr><hr>"],
  ["[a *b*](https://c.example/d?e=1&f=2 \"t\")", '<p><a href="https://c.example/d?e=1&amp;f=2" title="https://c.example/d?e=1&amp;f=2" target="_blank" rel="noopener noreferrer nofollow">a <em>b</em></a></p>'],
  ["see https://a.example/b_c_d.", '<p>see <a href="https://a.example/b_c_d" title="https://a.example/b_c_d" target="_blank" rel="noopener noreferrer nofollow">https://a.example/b_c_d</a>.</p>'],
  ["![p](https://a.example/p.png)", '<p><a href="https://a.example/p.png" title="https://a.example/p.png" target="_blank" rel="noopener noreferrer nofollow">p</a></p>'],
  ["[x](javascript:alert(1)) [y](data:text/html,z)", "<p>[x](javascript:alert(1)) [y](data:text/html,z)</p>"],
  ["<img src=x onerror=alert(1)> <b>&lt;</b> <script>x</script>", "<p>&lt;img src=x onerror=alert(1)&gt; &lt;b&gt;&lt;&lt;/b&gt; &lt;script&gt;x&lt;/script&gt;</p>"],
  ["a | b\n--|--:\n1 | `x\\|y`", '<div class="wide" tabindex="0" role="region" aria-label="Table"><table><thead><tr><th>a</th><th class="right">b</th></tr></thead><tbody><tr><td>1</td><td class="right"><code>x|y</code></td></tr></tbody></table></div>'],
];

const CODE = "Before\n\n~~~py\n# note\nprint(\"<b>\", 12)\n~~~\n\nafter `x` and\n\n1. one\n\n   ```js\n   let a = `b`;\n   ```\n2. two\n\n| a | b |\n|:-:|--|\n| *1* | 2 |\n\n> quote\n> more **bold\n";

await run({
  "the forms of Markdown": async (page, url) => {
    await page.goto(url);
    const made = await page.evaluate(async (cases) => {
      const { Markdown } = await import("/page/markdown.js");
      return cases.map(([text]) => {
        const element = document.createElement("div");
        new Markdown(element).show(text);
        return element.innerHTML;
      });
    }, CASES);
    CASES.forEach(([text, wanted], i) => assert.equal(made[i], wanted, text));
  },
  "code is coloured and copied as it is": async (page) => {
    const made = await page.evaluate(async (text) => {
      const { Markdown } = await import("/page/markdown.js");
      const element = document.createElement("div");
      new Markdown(element).show(text);
      const blocks = [...element.querySelectorAll("pre")].map((pre) => pre.textContent);
      const spans = [...element.querySelectorAll("pre span")].map((span) => [span.className, span.textContent]);
      return { blocks, spans, buttons: element.querySelectorAll('button[aria-label="Copy code"]').length };
    }, CODE);
    assert.deepEqual(made.blocks, ['# note\nprint("<b>", 12)', "let a = `b`;"]);
    assert.deepEqual(made.spans, [["c-note", "# note"], ["c-call", "print"], ["c-text", '"<b>"'], ["c-number", "12"], ["c-word", "let"], ["c-text", "`b`"]]);
    assert.equal(made.buttons, 2);
  },
  "tabs in code stay": async (page) => {
    const made = await page.evaluate(async () => {
      const { Markdown } = await import("/page/markdown.js");
      const texts = ["```make\nall:\n\tcc a.c\t-o a\n```\n\n-\tone", "- a\n  ```\n  \tb\n  ```\n\n```\n\tc\n```", "-\ta\n\n\t```\n\t\tb\n\t```", "> ```\n> \tb\n> ```"];
      return texts.map((text) => {
        const element = document.createElement("div");
        new Markdown(element).show(text);
        return [...element.querySelectorAll("pre, li, blockquote")].map((node) => (node.tagName === "PRE" ? node.textContent : node.tagName));
      });
    });
    assert.deepEqual(made, [["all:\n\tcc a.c\t-o a", "LI"], ["LI", "\tb", "\tc"], ["LI", "\tb"], ["BLOCKQUOTE", "\tb"]]);
  },
  "a text that comes letter by letter ends as the whole one": async (page) => {
    const same = await page.evaluate(async (texts) => {
      const { Markdown } = await import("/page/markdown.js");
      return texts.map((text) => {
        const [grown, whole] = [document.createElement("div"), document.createElement("div")];
        const growing = new Markdown(grown);
        for (let i = 1; i <= text.length; i++) growing.show(text.slice(0, i));
        new Markdown(whole).show(text);
        return grown.isEqualNode(whole) && whole.childNodes.length > 0;
      });
    }, [CODE, ...CASES.map(([text]) => text)]);
    assert.ok(same.every(Boolean), `${same}`);
  },
  "what stands of a growing text stays": async (page) => {
    const kept = await page.evaluate(async () => {
      const { Markdown } = await import("/page/markdown.js");
      const element = document.createElement("div");
      const growing = new Markdown(element);
      const text = "One.\n\nTwo *and* three";
      growing.show(text);
      const [first, last] = element.children;
      const [emphasis, words] = [last.children[0], last.lastChild];
      growing.show(`${text} and four`);
      const grown = [first, last].every((node, i) => node === element.children[i]) && emphasis === last.children[0] && words === last.lastChild && words.data === " three and four";
      // A block of code keeps its button, which copies what is there then.
      growing.show(`${text}\n\n~~~js\nlet a`);
      const button = element.querySelector("button");
      growing.show(`${text}\n\n~~~js\nlet a = 1;\n~~~\n`);
      let copied;
      Object.defineProperty(navigator, "clipboard", { value: { writeText: async (text) => (copied = text) }, configurable: true });
      element.querySelector("button").click();
      return [grown, button === element.querySelector("button"), copied];
    });
    assert.deepEqual(kept, [true, true, "let a = 1;"]);
  },
  "texts made to be slow are not": async (page) => {
    // Each took minutes if its time grew with the square of its length, or faster.
    const shown = await page.evaluate(async () => {
      const { Markdown } = await import("/page/markdown.js");
      const texts = ["*a_".repeat(30000), "[".repeat(30000), "`a``".repeat(10000), "> ".repeat(5000) + "a", "|-".repeat(20000) + "\n" + "|-".repeat(20000), "- ".repeat(3000) + "a"];
      return texts.map((text) => {
        const element = document.createElement("div");
        new Markdown(element).show(text);
        return element.textContent.length;
      });
    });
    assert.ok(shown.every((length) => length > 0), `${shown}`);
  },
});
