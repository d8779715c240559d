// Persons' names in, the distinct people out: "Potter" and "H. Potter" are Harry Potter where no other
// longer name of the text could be meant.

// names: [{text, ...}]. Returns [{name, variants, mentions}], the most mentioned first: variants are
// the ways the name is written, the longest first, and mentions the entries of `names`, in order.
export function peopleOf(names) {
  const spelt = new Map(); // folded name → {words, mentions}
  for (const one of names) {
    const words = wordsOf(one.text);
    const folded = words.join(" ");
    if (!spelt.has(folded)) spelt.set(folded, {words, mentions: []});
    spelt.get(folded).mentions.push(one);
  }
  const longestFirst = [...spelt.values()].sort(
    (a, b) => b.words.length - a.words.length || b.words.join(" ").length - a.words.join(" ").length,
  );
  const people = [];
  for (const {words, mentions} of longestFirst) {
    const could = people.filter((one) => isShortFor(words, one.words));
    if (could.length === 1) could[0].spellings.push(mentions);
    else people.push({words, spellings: [mentions]});
  }
  return people.map(personOf).sort((a, b) => b.mentions.length - a.mentions.length || a.at - b.at);

  function personOf({spellings}) {
    const mentions = spellings.flat().sort((a, b) => a.start - b.start);
    const variants = spellings.map((mentionsOfOne) => mostFrequent(mentionsOfOne.map((one) => plain(one.text))));
    return {name: variants[0], variants: variants.slice(1), mentions, at: mentions[0].start};
  }
}

const plain = (text) => text.trim().replace(/\s+/g, " ");
const wordsOf = (text) => plain(text).normalize("NFC").toLowerCase().split(" ");

// Whether the words could be a shorter way to write the longer name: some of its words, in order, or
// their initials, but not initials alone.
function isShortFor(words, longer) {
  if (words.every(isInitial)) return false;
  let at = 0;
  for (const word of words) {
    while (at < longer.length && !(longer[at] === word || initialFits(word, longer[at]))) at++;
    if (at++ === longer.length) return false;
  }
  return true;
}

const isInitial = (word) => /^\p{L}\p{M}*\.?$/u.test(word);
const initialFits = (word, full) => isInitial(word) && full.startsWith(word.replace(".", ""));

function mostFrequent(texts) {
  const counts = new Map();
  for (const text of texts) counts.set(text, (counts.get(text) ?? 0) + 1);
  return [...counts].reduce((best, one) => (one[1] > best[1] ? one : best))[0];
}
