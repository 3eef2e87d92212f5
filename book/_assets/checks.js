// A reader's answer to an exercise, judged as celib.exercises.check judges it. The answers and the
// words are those that checks.py puts into the page.
{
  const words = JSON.parse(document.currentScript.dataset.words);
  const part = "([+-]?(?:[0-9]+[.,]?[0-9]*|[.,][0-9]+)(?:[eE][+-]?[0-9]+)?)";
  const form = new RegExp(`^${part}(?:\\s*/\\s*${part})?$`);
  const number = (text) => {
    const [, over, under = "1"] = form.exec(text)?.map((found) => found?.replace(",", ".")) ?? [];
    return over / under;
  };
  // Commas that may set off thousands. They decide only if the number is then one that is known.
  const grouped = /^[+-]?[1-9][0-9]{0,2}(,[0-9]{3})+$/;
  const minus = (text) => text.replaceAll("\u2212", "-").trim();
  const read = (text, many) => {
    text = minus(text);
    const parts = many ? text.split(/[\s[\](),;]+/).filter(Boolean) : [text];
    const found = parts.map(number);
    return found.length && found.every(Number.isFinite) ? found : null;
  };

  for (const box of document.querySelectorAll("form.check")) {
    const { many, right, wrong, margin: [absolute, relative] } = JSON.parse(box.dataset.answers);
    const output = box.querySelector("output"), hint = box.querySelector("[type=button]");
    const near = (x, value) => Math.abs(x - value) <= absolute + relative * Math.abs(value);
    const matches = (found) => (values) =>
      found.length === values.length && found.every((x, i) => near(x, values[i]));

    const judge = (text) => {
      if (text === null) return words.choose;
      const whole = !many && grouped.test(minus(text)) && [+minus(text).replaceAll(",", "")];
      const known = whole && [right, ...wrong].some(matches(whole));
      const found = known ? whole : read(text, many);
      if (!found) return many ? words.numbers : words.number;
      if (matches(found)(right)) return words.right;
      const mistake = wrong.findIndex(matches(found));
      if (mistake >= 0) return box.querySelectorAll("template")[mistake].content.cloneNode(true);
      const all = right.length;
      if (found.length !== all)
        return words.length.replace("{all}", all).replace("{found}", found.length);
      if (many) {
        const hits = found.filter((x, i) => near(x, right[i])).length;
        return words.part.replace("{right}", hits).replace("{all}", all);
      }
      const [x] = found, [value] = right;
      const far = Math.abs(x - value) > 0.1 * Math.abs(value) ? "far " : "";
      return words[far + (x < value ? "below" : "above")];
    };

    box.addEventListener("submit", (event) => {
      event.preventDefault();
      const verdict = judge(new FormData(box).get("answer"));
      output.dataset.verdict = verdict === words.right ? "right" : "wrong";
      output.replaceChildren(verdict);
    });
    hint.addEventListener("click", () => {
      const [next, ...rest] = box.querySelectorAll("li[hidden]");
      if (next) next.hidden = false;
      if (!rest.length) hint.setAttribute("aria-disabled", "true");
    });
  }
}
