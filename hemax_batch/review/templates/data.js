"use strict";
/* The data of the page: the cells in the order of the report, the classes, and the pictures of the cells. */

const DATA = JSON.parse(document.getElementById("data").textContent);
const CELLS = DATA.cells;
const CLASSES = new Map(DATA.classes.map((c) => [c.name, c]));
const CLASS_OF_KEY = new Map(DATA.classes.filter((c) => c.key).map((c) => [c.key.toLowerCase(), c.name]));
const INDEX_OF_ID = new Map(CELLS.map((cell, index) => [cell.id, index]));
const PICTURE_UM = 24; // side of a stored picture (records.PICTURE_UM)

const KEPT_BLOCKS = 40; // parsed blocks in memory: some 2,400 cells
const parsedBlocks = new Map();

/** Picture and outlines of a cell: {jpeg, cell, nucleus}. Null while the browser still reads that part of the file. */
function looksOf(index) {
  const number = Math.floor(index / DATA.block);
  let block = parsedBlocks.get(number);
  if (!block) {
    const element = byId(`block-${number}`);
    // The last block in the document may be half read.
    if (!element || (document.readyState === "loading" && !element.nextSibling)) return null;
    block = JSON.parse(element.textContent);
    if (parsedBlocks.size >= KEPT_BLOCKS) parsedBlocks.delete(parsedBlocks.keys().next().value);
    parsedBlocks.set(number, block);
  }
  const [jpeg, cell, nucleus] = block[index % DATA.block];
  return { jpeg: jpeg && `data:image/jpeg;base64,${jpeg}`, cell, nucleus };
}

const byId = (id) => document.getElementById(id);
const say = (text) => { byId("status").textContent = text; };
const plural = (n, words) => `${n} ${words}${n === 1 ? "" : "s"}`;
const words = (className) => CLASSES.get(className).words;

/** A new element with a class and a text. */
function make(tag, className = "", text = "") {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text) element.textContent = text;
  return element;
}

const SVG = document.querySelector("svg").namespaceURI;

/** A new SVG element with its attributes. */
function draw(tag, attributes) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

/** The shape and colour of a class. */
function signOf(className) {
  const sign = draw("svg", { class: `sign c-${className}`, viewBox: "0 0 12 12", "aria-hidden": "true" });
  sign.append(draw("use", { href: `#s-${CLASSES.get(className).shape}` }));
  return sign;
}
