// The model card, in a dialog: how good the model is and where it fails first, then the rest.

import {call} from "./api.js";
import {element, rendered} from "./markdown.js";

const FIRST = ["What counts as a person", "Scores", "Known failures", "Data"];

export async function showCard(dialog, title, content, model) {
  title.textContent = `Model card: ${model}`;
  content.replaceChildren("Loading …");
  dialog.showModal();
  try {
    const details = await call(`/v1/models/${encodeURIComponent(model)}`);
    title.textContent = `Model card: ${details.name} ${details.version}`;
    content.replaceChildren(facts(details), ...sorted(details.card).flatMap((part) => rendered(part, 1)));
    content.scrollTop = 0;
  } catch (error) {
    content.replaceChildren(error.message);
  }
}

function facts({languages, labels, tokeniser, normalisation, backend, device, network}) {
  const rows = {
    Languages: languages.join(", "),
    Labels: labels.join(", "),
    Network: `${network.cell.toUpperCase()}, ${network.bidirectional ? "both directions" : "one direction"}, ${network.hidden_dim} units, ${network.head} head`,
    Text: `${tokeniser}, ${normalisation}`,
    "Runs on": `${backend}, ${device}`,
  };
  return element("dl", ...Object.entries(rows).flatMap(([name, value]) => [element("dt", name), element("dd", value)]));
}

// The card's parts without its title: the opening, then those that people ask for, then the others.
function sorted(card) {
  const [opening, ...parts] = card.replace(/^# .*\n/, "").split(/^(?=## )/m);
  const rank = (part) => {
    const at = FIRST.indexOf(part.slice(3, part.indexOf("\n")).trim());
    return at < 0 ? FIRST.length : at;
  };
  return [opening, ...parts.map((part, i) => ({part, i})).sort((a, b) => rank(a.part) - rank(b.part) || a.i - b.i).map(({part}) => part)];
}
