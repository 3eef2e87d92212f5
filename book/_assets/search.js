// Search by section, on the search page. The records are in search-records.js, by page: kind, number,
// title, anchor, text, names that occur in code only, terms that the text introduces.
{
  const STOP = new Set(
    ("a an and are as at be by can do does for from how i if in into is it its my not of on or so that " +
      "the their they this to vs was we what when where which who why with you").split(" "),
  );
  // What readers type, and what the text says.
  const ALSO = {
    bce: "binary cross entropy",
    ece: "calibration error",
    kl: "Kullback Leibler",
    lse: "LogSumExp",
    mle: "maximum likelihood",
    mse: "squared error",
    nan: "not a number",
    nll: "negative log likelihood",
  };
  const WEIGHT = { theorem: 1.2, definition: 1.2, proposition: 1.2, page: 0.9, exercise: 0.8, work: 0.25 };
  Object.assign(WEIGHT, { function: 0.8, class: 0.8, data: 0.6, method: 0.4, property: 0.4, attribute: 0.4 });
  const [TITLE, TEXT, CODE, TERMS, ABOVE] = [0, 1, 2, 3, 4];
  const SHOWN = 30;
  const WORD = /[\p{L}\p{N}_][\p{L}\p{N}\p{M}_]*(?:[-‑–][\p{L}\p{N}_][\p{L}\p{N}\p{M}_]*)*/gu;
  const BREAK = "[-‑–_\\s]*";

  const fold = (word) => word.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();
  const literal = (text) => text.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&");
  const stem = (word) => {
    if (/(?:ss|sh|ch|x)es$/.test(word)) return word.slice(0, -2);
    if (/[^aeiou]ies$/.test(word)) return `${word.slice(0, -3)}y`;
    return word.length > 2 && /[^sui]s$/.test(word) ? word.slice(0, -1) : word;
  };

  // A word's parts and the whole: log-sum-exp is log, sum, exp and logsumexp. Single letters, of which
  // formulas are full, do not count.
  const known = new Map();
  const keysOf = (word) => {
    if (!known.has(word)) {
      const all = fold(word).split(/[-‑–_]+/).filter(Boolean).map(stem);
      const long = all.filter((part) => part.length > 1);
      const joined = all.length > 1 && (word.includes("_") ? long.length === all.length : long.length);
      const whole = joined ? stem(all.join("")) : "";
      known.set(word, { whole, all, parts: long.filter((part) => !STOP.has(part)) });
    }
    return known.get(word);
  };

  // Insertions, deletions, replacements and swaps of neighbours that lead from one word to the other.
  const distance = (a, b) => {
    let [before, last, row] = [[], [], Array.from({ length: b.length + 1 }, (_, j) => j)];
    for (let i = 1; i <= a.length; i++) {
      [before, last, row] = [last, row, [i]];
      for (let j = 1; j <= b.length; j++) {
        row[j] = Math.min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (a[i - 1] !== b[j - 1]));
        const swapped = a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1];
        if (i > 1 && j > 1 && swapped) row[j] = Math.min(row[j], before[j - 2] + 1);
      }
    }
    return row[b.length];
  };

  // The index: for each word the records that have it, and how often in which field. It is made at the
  // first query, which takes less time than loading it would.
  const records = [];
  const index = new Map();
  const spelling = new Map(); // of the words of titles
  const add = (record, field, text) => {
    let count = 0;
    for (const [word] of text.matchAll(WORD)) {
      const { whole, parts } = keysOf(word);
      for (const key of new Set(field === CODE ? [whole || parts[0]] : [whole, ...parts])) {
        if (!key) continue;
        if (!index.has(key)) index.set(key, new Map());
        if (!index.get(key).has(record)) index.get(key).set(record, [0, 0, 0, 0, 0]);
        index.get(key).get(record)[field]++;
        const plain = key === whole || (!whole && key.length > 2);
        if (field === TITLE && record.kind !== "work" && plain && !spelling.has(key)) spelling.set(key, word);
      }
      count += parts.length;
    }
    return count;
  };
  const build = () => {
    for (const [path, rows] of searchRecords) {
      let above = [];
      for (const [kind, number, title, anchor, text, code = "", terms = ""] of rows) {
        const page = rows[0][1] ? `${rows[0][1]}. ${rows[0][2]}` : rows[0][2];
        const named = { page: number ? "chapter" : "page" }[kind] ?? kind;
        const record = { kind, named, number, title, text, code, page, address: `${path}#${anchor}` };
        const heading = kind === "page" || kind === "section";
        if (heading) above = above.slice(0, kind === "page" ? 0 : number.split(".").length - 1 || 1);
        record.titleLength = add(record, TITLE, title);
        record.length = add(record, TEXT, text);
        add(record, CODE, code);
        add(record, TERMS, terms);
        add(record, ABOVE, above.join(" "));
        if (heading) above.push(title);
        records.push(record);
      }
    }
    const total = records.reduce((sum, record) => sum + record.length, 0);
    for (const record of records) record.length *= records.length / total;
  };

  // For each record that has the word: its score, and whether the title has it. The best counts.
  const put = (found, record, score, titled) => {
    if (score > (found.get(record)?.score ?? 0)) found.set(record, { score, titled });
  };
  const lookUp = (key, found, factor = 1) => {
    const having = index.get(key) ?? new Map();
    const rarity = factor * Math.log(1 + records.length / having.size);
    for (const [record, fields] of having) {
      const often = fields[TEXT] / (fields[TEXT] + 0.5 + record.length);
      const [title, code, terms, above] = [TITLE, CODE, TERMS, ABOVE].map((field) => !!fields[field]);
      put(found, record, rarity * (4 * title + 2 * terms + 1.5 * often + 0.7 * code + 0.5 * above), title);
    }
    return found;
  };

  // Words that stand for one that is being typed, that has a letter wrong, or of its family.
  const variants = (key, { found, typing, loosely }) => {
    const others = [...index.keys()].filter((other) => other !== key);
    let near = [];
    if (typing && key.length > (found.size ? 3 : 2)) {
      near = others.filter((other) => other.startsWith(key)).map((other) => [other, (0.5 * key.length) / other.length]);
    }
    if (!found.size && !near.length && key.length > 3) {
      near = others.filter((other) => Math.abs(other.length - key.length) < 2 && distance(key, other) === 1);
      near = near.map((other) => [other, 0.6, "corrected"]);
    }
    if (key.length > 5 && (loosely || !(found.size || near.length))) {
      const family = key.slice(0, Math.max(5, key.length - 3));
      near.push(...others.filter((other) => other.startsWith(family)).map((other) => [other, 0.3]));
    }
    return near;
  };

  // The words of the query, each with what it finds.
  const slotsOf = (query, loosely, { marks, patterns, corrected }) => {
    const keys = (query.match(WORD) ?? []).flatMap((word) => {
      const { whole, all, parts } = keysOf(word);
      // Names in code are whole words, and so are those with a letter that does not count: z-loss.
      return index.has(whole) && (word.includes("_") || parts.length < all.length) ? [whole] : parts;
    });
    // What is one word elsewhere: cross entropy, crossentropy, CrossEntropyLoss.
    const joined = keys.flatMap((_, from) =>
      [2, 3, 4, 5].map((length) => ({ from, to: from + length, whole: keys.slice(from, from + length).join("") })),
    ).filter(({ to, whole }) => to <= keys.length && index.has(whole));
    return keys.map((key, place) => {
      const found = lookUp(key, new Map());
      const wholes = joined.filter(({ from, to }) => from <= place && place < to).map(({ whole }) => whole);
      for (const whole of wholes) lookUp(whole, found);
      const typing = place === keys.length - 1 && /[\p{L}\p{N}]$/u.test(query);
      const near = variants(key, { found, typing, loosely });
      for (const [other, factor] of near) lookUp(other, found, factor);
      for (const other of [key, ...wholes, ...near.map(([one]) => one)]) marks.add(other);
      if (near[0]?.[2]) corrected.push([key, near.filter((one) => one[2]).map(([one]) => one)]);
      if (Object.hasOwn(ALSO, key)) {
        const pattern = new RegExp(ALSO[key].replaceAll(" ", "[-‑–\\s]+"), "giu");
        patterns.push(pattern);
        for (const record of records) {
          const titled = record.title.search(pattern) >= 0;
          if (titled || record.text.search(pattern) >= 0) put(found, record, titled ? 16 : 3, titled);
        }
      }
      return { key, found };
    });
  };

  const search = (query, loosely = false) => {
    if (!records.length) build();
    const result = { hits: [], marks: new Set(), patterns: [], corrected: [], unknown: [], partial: false };
    const best = (hits) => hits.sort((a, b) => b.present - a.present || b.named - a.named || b.score - a.score);

    const asked = query.trim().toLowerCase().match(/^(?:(\p{L}+)\s+)?(\d+(?:\.\d+)*)$/u);
    if (asked) {
      const meant = records.filter(({ number, named }) => number === asked[2] && (asked[1] ?? named) === named);
      if (meant.length) return { ...result, hits: meant.map((record) => ({ record })) };
    }

    const slots = slotsOf(query, loosely, result);
    if (!slots.length && /(?<!\p{L}\p{M}*)\p{L}(?!\p{M}*\p{L})/u.test(query) && /\S\s*\S/.test(query)) {
      // Letters alone, as in p - y: the formula itself is looked for.
      const signs = [...query.replace(/\s/g, "")].map((sign) => (/[-−–]/.test(sign) ? "[-−–]" : literal(sign)));
      const formula = signs.join("\\p{M}*\\s*");
      const pattern = new RegExp(`(?<![\\p{L}\\p{N}_])${formula}(?![\\p{L}\\p{N}_])`, "gu");
      result.patterns.push(pattern);
      for (const record of records) {
        const [title, text] = [record.title, record.text].map((part) => part.match(pattern)?.length ?? 0);
        if (title + text) result.hits.push({ record, present: 1, named: true, score: 5 * title + text });
      }
      return { ...result, hits: best(result.hits) };
    }

    const phrase = slots.map(({ key }) => `${literal(key)}[’']?\\p{L}{0,2}`).join(BREAK);
    // Names of code as they are written come first.
    const names = (query.match(WORD) ?? []).filter((word) => /_|\p{Ll}{2}\p{Lu}/u.test(word));
    const exact = names.map((name) => new RegExp(`(?<!\\w)${literal(name)}(?!\\w)`));
    const together = new RegExp(`(?<![\\p{L}\\p{N}])${phrase}`, "iu");
    for (const record of new Set(slots.flatMap(({ found }) => [...found.keys()]))) {
      const present = slots.map(({ found }) => found.get(record)).filter(Boolean);
      let score = present.reduce((sum, one) => sum + one.score, 0);
      if (slots.every(({ found }) => found.get(record)?.titled)) {
        score *= 1 + 2 * Math.min(1, slots.length / record.titleLength);
      }
      if (slots.length > 1) score += 8 * together.test(record.title) + 4 * together.test(record.text);
      score *= WEIGHT[record.kind] ?? 1;
      for (const name of exact) score += 20 * name.test(record.title) + 10 * name.test(record.text);
      // The library's pages are long, and have every word: the book comes first.
      if (record.address.startsWith("reference/")) score *= 0.5;
      const named = exact.every((name) => name.test(`${record.title} ${record.text} ${record.code}`));
      result.hits.push({ record, present: present.length, named, score });
    }
    const complete = result.hits.filter(({ present }) => present === slots.length);
    if (!complete.length && !loosely) return search(query, true);
    result.partial = !complete.length;
    result.unknown = slots.filter(({ found }) => !found.size).map(({ key }) => key);
    return { ...result, hits: best(complete.length ? complete : result.hits) };
  };

  const nearest = (words) => {
    // What is wrong with a word as a share of it; a common beginning makes it less.
    const share = (one, other) => {
      let common = 0;
      while (common < one.length && one[common] === other[common]) common += 1;
      return (distance(one, other) - common / 2) / Math.max(one.length, other.length);
    };
    return [...spelling]
      .map(([key, word]) => [Math.min(...words.map((one) => share(one, key))), word])
      .filter(([wrong]) => wrong < 0.6)
      .sort((a, b) => a[0] - b[0])
      .slice(0, 3)
      .map(([, word]) => word);
  };

  // What is shown

  const element = (tag, options, ...children) => {
    const made = Object.assign(document.createElement(tag), options);
    made.append(...children);
    return made;
  };
  const spotsOf = (text, { marks, patterns }) => {
    const spots = [];
    for (const found of text.matchAll(WORD)) {
      const { whole, parts } = keysOf(found[0]);
      const key = [whole, ...parts].find((one) => marks.has(one));
      if (key) spots.push([found.index, found.index + found[0].length, key]);
    }
    for (const pattern of patterns) {
      for (const found of text.matchAll(pattern)) {
        spots.push([found.index, found.index + found[0].length, pattern]);
      }
    }
    return spots.sort((a, b) => a[0] - b[0]);
  };
  const marked = (text, spots, from = 0, to = text.length) => {
    const pieces = [];
    for (const [start, end] of spots) {
      if (start < from || end > to) continue;
      pieces.push(text.slice(from, start), element("mark", {}, text.slice(start, end)));
      from = end;
    }
    return [...pieces, text.slice(from, to)];
  };
  // The part of the text with most of the words.
  const excerpt = ({ text, code }, result) => {
    const spots = spotsOf(text, result);
    const names = code.split(" ").filter((name) => spotsOf(name, result).length);
    if (!spots.length && names.length) {
      return ["In its code: ", ...names.flatMap((name) => [element("code", {}, name), " "])];
    }
    let [best, most] = [0, 0];
    for (const [start] of spots) {
      const near = spots.filter(([other]) => other >= start && other < start + 160);
      const worth = 10 * new Set(near.map(([, , key]) => key)).size + near.length;
      if (worth > most) [best, most] = [start, worth];
    }
    const from = best < 80 || text.length < 230 ? 0 : text.indexOf(" ", best - 60) + 1;
    const to = text.length < from + 230 ? text.length : text.lastIndexOf(" ", from + 220);
    return [from ? "… " : "", ...marked(text, spots, from, to), to < text.length ? " …" : ""];
  };

  const box = document.querySelector(".bd-search-container");
  const input = box.querySelector("input");
  const [status, near, help, list] = ["status", "near", "help", "hits"].map((name) =>
    document.getElementById(`search-${name}`),
  );

  const item = ({ record }, result) => {
    const { kind, named, number, title, page, address } = record;
    const label = `${named[0].toUpperCase()}${named.slice(1)} ${number}`.trim();
    const link = element("a", { href: address });
    link.append(element("span", { className: "hit-kind" }, `${label} `), ...marked(title, spotsOf(title, result)));
    const place = kind === "page" ? [] : [element("span", { className: "hit-place" }, page)];
    return element("li", {}, link, ...place, element("p", {}, ...excerpt(record, result)));
  };
  const announce = (query, { hits, partial, corrected }) => {
    if (!hits.length) return `Nothing found for “${query}”.`;
    const rest = hits.length > SHOWN ? `, the best ${SHOWN} are shown` : "";
    const count = `${hits.length} ${hits.length === 1 ? "result" : "results"}${rest}`;
    if (partial) return `No place has all of these words. With some of them: ${count}.`;
    if (!corrected.length) return `${count}.`;
    const words = corrected[0][1].map((other) => `“${spelling.get(other) ?? other}”`);
    return `The book does not have “${corrected[0][0]}”. With ${words.join(" or ")}: ${count}.`;
  };
  const show = () => {
    const query = input.value.trim();
    const result = query ? search(input.value) : { hits: [] };
    list.replaceChildren(...result.hits.slice(0, SHOWN).map((hit) => item(hit, result)));
    help.hidden = result.hits.length > 0;
    status.textContent = query && announce(query, result);
    near.replaceChildren();
    if (query && !result.hits.length) {
      const words = nearest(result.unknown.length ? result.unknown : [fold(query)]);
      const links = words.map((word) => element("a", { href: `?q=${encodeURIComponent(word)}` }, word));
      if (links.length) near.append("Did you mean ", ...links.flatMap((link, i) => [i ? " or " : "", link]), "?");
    }
  };

  input.addEventListener("input", show);
  // So that the way back from a result leads to the results.
  input.addEventListener("change", () => {
    const query = input.value.trim();
    history.replaceState(null, "", query ? `?q=${encodeURIComponent(query)}` : location.pathname);
  });
  input.form.addEventListener("submit", (event) => {
    event.preventDefault();
    list.querySelector("a")?.focus();
  });
  box.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const stops = [input, ...list.querySelectorAll("a")];
    const here = stops.indexOf(document.activeElement);
    if (!step || here < 0 || !stops[here + step]) return;
    event.preventDefault();
    stops[here + step].focus();
  });
  input.value = new URLSearchParams(location.search).get("q") ?? "";
  show();
  input.focus();
}
