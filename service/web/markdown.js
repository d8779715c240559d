// The Markdown that model cards are written in, as elements: headings, paragraphs, lists, tables, code.
// No string becomes HTML on the way.

const TABLE_RULE = /^\|[\s:|-]+\|$/;
const LIST_ITEM = /^[-*] +/;
const SPAN = /`([^`]+)`|\*\*([^*]+)\*\*|\[([^\]]+)\]\((https?:[^)\s]+)\)/g;

export function element(name, ...children) {
  const made = document.createElement(name);
  made.append(...children);
  return made;
}

// A list of elements. Heading levels are raised by `deeper`.
export function rendered(markdown, deeper = 0) {
  const lines = markdown.split("\n");
  const out = [];
  for (let i = 0; i < lines.length; ) {
    const take = (belongs) => {
      const first = i;
      while (i < lines.length && belongs(lines[i])) i++;
      return lines.slice(first, i);
    };
    const line = lines[i];
    if (!line.trim()) i++;
    else if (line.startsWith("```")) {
      i++;
      const code = element("pre", element("code", take((one) => !one.startsWith("```")).join("\n")));
      code.tabIndex = 0; // it scrolls
      out.push(code);
      i++;
    } else if (/^#{1,6} /.test(line)) {
      const [marks] = line.split(" ", 1);
      out.push(element(`h${Math.min(6, marks.length + deeper)}`, ...inline(line.slice(marks.length + 1))));
      i++;
    } else if (line.startsWith("|")) out.push(table(take((one) => one.startsWith("|"))));
    else if (LIST_ITEM.test(line)) out.push(list(take((one) => LIST_ITEM.test(one) || /^ +\S/.test(one))));
    else out.push(element("p", ...inline(take(isProse).join(" "))));
  }
  return out;
}

const isProse = (line) => line.trim() && !/^(```|\||#{1,6} |[-*] )/.test(line);

function list(lines) {
  const items = [];
  for (const line of lines) {
    if (LIST_ITEM.test(line)) items.push(line.replace(LIST_ITEM, ""));
    else items[items.length - 1] += ` ${line.trim()}`;
  }
  return element("ul", ...items.map((item) => element("li", ...inline(item))));
}

function table(lines) {
  const cells = (line) => line.slice(1, line.lastIndexOf("|")).split("|").map((cell) => cell.trim());
  const rule = lines.findIndex((line) => TABLE_RULE.test(line));
  const isNumeric = rule < 0 ? [] : cells(lines[rule]).map((cell) => cell.endsWith(":"));
  const row = (name) => (line) =>
    element("tr", ...cells(line).map((cell, i) => {
      const made = element(cell ? name : "td", ...inline(cell)); // an empty heading heads nothing
      if (name === "th" && cell) made.scope = "col";
      made.classList.toggle("number", Boolean(isNumeric[i]));
      return made;
    }));
  const made = element("table");
  if (rule > 0) made.append(element("thead", ...lines.slice(0, rule).map(row("th"))));
  made.append(element("tbody", ...lines.slice(rule + 1).map(row("td"))));
  const box = element("div", made);
  box.className = "wide";
  box.tabIndex = 0; // it scrolls where there is no room
  return box;
}

function inline(text) {
  const out = [];
  let at = 0;
  for (const found of text.matchAll(SPAN)) {
    const [whole, code, bold, label, url] = found;
    out.push(text.slice(at, found.index));
    if (code) out.push(element("code", code));
    else if (bold) out.push(element("strong", bold));
    else {
      const link = element("a", label);
      link.href = url;
      out.push(link);
    }
    at = found.index + whole.length;
  }
  out.push(text.slice(at));
  return out;
}
