// A card at hand, kept in step with what was just corrected: the server will say the same when it is asked again.

// The version of a candidate that its card shows, where the server told one: it refuses to overwrite a later one.
export function seen(card) {
  return card.version === undefined ? {} : { seen: card.version };
}

// A card as a verdict corrected it, or as it was made when `edit` is empty.
export function corrected(card, edit, names) {
  const [xyxy, label] = [edit.xyxy ?? card.made.xyxy, names?.get(edit.category_id) ?? card.made.label];
  card.correction = edit;
  if (card.whole) card.whole.content = edit.content ?? card.whole.made;
  if (card.after) Object.assign(card.after, { xyxy, label });
  if (card.texts) card.texts.corrected = edit.text_after ?? null;
}

// A card whose image was corrected: its other boxes as they are now, one version on.
export function redrawn(card, draft, names) {
  if (card.whole) return; // says what it says itself
  const masks = new Map(card.others.map((box) => [box.id, box]));
  const label = (box) => names.get(box.category_id) ?? "";
  const mask = (box) => (String(masks.get(box.id)?.xyxy) === String(box.xyxy) ? masks.get(box.id).mask : null);
  card.others = draft.boxes.filter((box) => box.id !== card.box).map((box) => ({ id: box.id, xyxy: box.xyxy, label: label(box), mask: mask(box) }));
  const own = card.box === null ? null : draft.boxes.find((box) => box.id === card.box);
  if (card.box !== null) Object.assign(card.before, own ? { xyxy: own.xyxy, label: label(own) } : { xyxy: null });
}
