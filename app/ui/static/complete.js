// Completes <lora:...> in the prompt from the names of the adapter library.
(() => {
  const source = () => document.querySelector("#library-names [data-names]");
  const names = () => JSON.parse(source()?.dataset.names ?? "[]");
  let box = null, at = 0, found = [], area = null;

  const close = () => { box?.remove(); box = null; };

  const opened = () => /<lora:([^<>:]*)$/.exec(area.value.slice(0, area.selectionStart));

  const put = (name) => {
    const open = opened();
    if (!open) return;
    const end = area.selectionStart, start = end - open[1].length;
    const rest = area.value.slice(end).replace(/^[^<>\s,]*>/, "");
    const tag = `${name[0]}:${name[2]}>`;
    area.value = area.value.slice(0, start) + tag + rest;
    area.selectionStart = area.selectionEnd = start + tag.length;
    area.dispatchEvent(new Event("input", { bubbles: true }));
    close();
  };

  const draw = () => {
    close();
    if (!found.length) return;
    box = document.createElement("div");
    box.className = "completions";
    found.forEach((name, number) => {
      const line = document.createElement("div");
      const about = document.createElement("small");
      line.textContent = name[0];
      about.textContent = name[1];
      line.append(about);
      line.classList.toggle("on", number === at);
      line.addEventListener("mousedown", (event) => { event.preventDefault(); put(name); });
      box.append(line);
    });
    const place = area.getBoundingClientRect();
    box.style.left = `${place.left + window.scrollX + 8}px`;
    box.style.top = `${place.bottom + window.scrollY - 4}px`;
    document.body.append(box);
  };

  document.addEventListener("input", (event) => {
    if (!event.target.matches?.("#prompt textarea")) return;
    area = event.target;
    const open = opened();
    const typed = open ? open[1].toLowerCase() : null;
    found = open ? names().filter((n) => n.join(" ").toLowerCase().includes(typed)).slice(0, 12) : [];
    at = 0;
    draw();
  }, true);

  document.addEventListener("keydown", (event) => {
    if (!box || event.target !== area) return;
    const moves = { ArrowDown: 1, ArrowUp: -1 };
    if (event.key in moves) {
      at = (at + moves[event.key] + found.length) % found.length;
      draw();
    } else if (event.key === "Enter" || event.key === "Tab") {
      put(found[at]);
    } else if (event.key === "Escape") {
      close();
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  }, true);

  document.addEventListener("focusout", close, true);
})();
