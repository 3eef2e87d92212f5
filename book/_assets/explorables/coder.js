// Words: reset, message, probability of 0, begin, width, end, surprise, bits, code word.
// The interval of an arithmetic coder. state: { p, message }, with p the probability of a 0.
{
  const { pen } = explorables;

  // Exact, in multiples of 2^-100n after n symbols: a word may end where an interval does.
  const work = ({ p, message }) => {
    const zero = BigInt(p * 2 ** 100), one = (1n << 100n) - zero, rows = [];
    let low = 0n, width = 1n, n = 0;
    for (;;) {
      rows.push([low, width, low + width].map((x) => Number(x) / 2 ** (100 * n)));
      if (n === message.length) break;
      low = (low << 100n) + (+message[n] ? width * zero : 0n);
      width *= +message[n++] ? one : zero;
    }
    // The shortest word b with [0.b, 0.b + 2^-k) inside.
    const whole = 100n * BigInt(n);
    for (let k = 0n; width; k++) {
      const first = -(-(low << k) >> whole); // rounded up
      if ((first + 1n) << whole > (low + width) << k) continue;
      const from = Number((first << whole) - (low << k)) / Number(width << k);
      const cell = [from, from + Number(1n << whole) / Number(width << k)];
      return { rows, cell, word: k ? first.toString(2).padStart(Number(k), "0") : "" };
    }
    return { rows, word: null };
  };

  explorables.coder = {
    compute(state) {
      const { rows, word } = work(state), [low, width] = rows.at(-1);
      return { low, width, surprise: 0 - Math.log2(width), word };
    },

    set: (state, _, p) => ({ ...state, p }),

    field([, message], change) {
      const input = document.createElement("input"), node = document.createElement("label");
      Object.assign(input, { type: "text", inputMode: "numeric", maxLength: 8, autocomplete: "off" });
      node.append(`${message} `, input);
      input.oninput = () => change({ message: input.value.replace(/[^01]/g, "") });
      return { node, show: ({ message: now }) => input.value === now || (input.value = now) };
    },

    draw(state, words, width, height) {
      const [, , chance, begin, size, end, surprising, bits, named] = words;
      const { p, message } = state, { rows, cell, word } = work(state), { surprise } = this.compute(state);
      const { shapes, draw, write } = pen();
      const left = 1, right = width - 1, x = (at) => left + at * (right - left);
      const pitch = Math.min(92, (height - 90) / (message.length || 1));
      const bar = Math.max(11, Math.min(26, pitch - 22)), y = (i) => 33 + i * pitch;
      const three = (texts, y) =>
        ["start", "middle", "end"].forEach((anchor, i) => write(texts[i], [left, width / 2, right][i], y, anchor));
      const part = (i, from, to, colour, kind, text) => {
        const wide = x(to) - x(from);
        draw("rect", { x: x(from), y: y(i), width: wide, height: bar, class: kind, style: `fill: var(--c${colour})` });
        if (wide > 8 * text.length + 8) write(text, x((from + to) / 2), y(i) + bar / 2 + 4, "middle");
      };

      three([begin, size, end], 11);
      rows.forEach((row, i) => {
        const symbol = message[i], ends = [[0, p], [p, 1]], next = y(i + 1);
        if (symbol) {
          const [a, b] = ends[symbol].map(x), from = y(i) + bar, turn = Math.max(from, next - 15);
          draw("path", { d: `M${a} ${from}L${left} ${turn}V${next}H${right}V${turn}L${b} ${from}z`, class: "beam", style: `fill: var(--c${symbol})` });
        }
        if (symbol || !i) ends.forEach((at, each) => part(i, ...at, each, each == symbol ? "part" : "faint", `${each}`));
        else part(i, 0, 1, message[i - 1], "faint", "");
        three(row.map((number) => number.toFixed(6)), y(i) - 4);
      });
      const long = word?.length, last = rows.at(-1)[1].toFixed(6);
      if (word) part(message.length, ...cell, 2, "part", word);
      const note = `${size} ${last} · ${surprising} ${surprise.toFixed(3)} ${bits}`;
      const code = (most) => `${named} ${long > most ? `${word.slice(0, most)}…` : word}, ${long} ${bits}`;
      write(note, width / 2, height - 26, "middle");
      write(code((width - 150) / 8), width / 2, height - 6, "middle", "bold");
      const handle = { x: x(p), y: y(0) + bar / 2, rise: 0, label: chance, text: p.toFixed(2), min: 0.01, max: 0.99, now: p, step: 0.01 };
      handle.value = (at) => (at - left) / (right - left);
      return { shapes, handles: [handle], said: `${note} · ${code(Infinity)}` };
    },
  };
}
