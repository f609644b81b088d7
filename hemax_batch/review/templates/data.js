"use strict";
/* What the page is about: cells in the order of the gallery, classes, and pictures that are parsed when they are wanted. */

const DATA = JSON.parse(document.getElementById("data").textContent);
const CELLS = DATA.cells;
const CLASSES = new Map(DATA.classes.map((c) => [c.name, c]));
const CLASS_OF_KEY = new Map(DATA.classes.map((c) => [c.key.toLowerCase(), c.name]));
const INDEX_OF_ID = new Map(CELLS.map((cell, index) => [cell.id, index]));

const blocks = [...document.querySelectorAll("script.block")];

/** Picture and outlines of the cell at `index` of the gallery: {jpeg, cell, nucleus}. */
function looksOf(index) {
  const number = Math.floor(index / DATA.block);
  if (blocks[number] instanceof Element) {
    const element = blocks[number];
    blocks[number] = JSON.parse(element.textContent);
    element.remove();
  }
  const [jpeg, cell, nucleus] = blocks[number][index % DATA.block];
  return { jpeg, cell, nucleus };
}

const byId = (id) => document.getElementById(id);
const say = (text) => { byId("status").textContent = text; };
const plural = (n, words) => `${n} ${words}${n === 1 ? "" : "s"}`;
