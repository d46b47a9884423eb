// The few ways in which this page changes itself. Text is only ever set as text.

/**
 * @param {string} id
 * @returns {any} The element of the page with that ID.
 */
export function byId(id) {
  const found = document.getElementById(id);
  if (found === null) throw new Error(`the page has no #${id}`);
  return found;
}

/**
 * @param {string} tag
 * @param {string} kind Its classes.
 * @param {...(Node | string)} children
 * @returns {any} A new element.
 */
export function element(tag, kind = "", ...children) {
  const made = document.createElement(tag);
  if (kind) made.className = kind;
  made.append(...children);
  return made;
}

/**
 * Set a text, unless it is there already: what does not change is not laid out anew, and
 * what somebody has selected stays so.
 * @param {Element} node
 * @param {string} text
 */
export function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/**
 * Have just these children, in this order, and move only those that stand elsewhere.
 * @param {Element} parent
 * @param {Element[]} children
 */
export function arrange(parent, children) {
  let next = parent.firstElementChild;
  for (const child of children) {
    if (child === next) next = next.nextElementSibling;
    else parent.insertBefore(child, next);
  }
  while (next !== null) {
    const gone = next;
    next = next.nextElementSibling;
    gone.remove();
  }
}
