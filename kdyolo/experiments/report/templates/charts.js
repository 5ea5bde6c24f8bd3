"use strict";
// Draws the charts from the JSON beside them, in the colours of the page, and anew when these change.
(() => {
  const settings = JSON.parse(document.getElementById("settings-of-page").textContent);
  const config = { responsive: true, displayModeBar: false, scrollZoom: false, doubleClick: false };
  const specs = new Map();
  const hidden = new Set();

  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function colored(trace) {
    const paint = color(`--arm-${trace.meta.color}`);
    const drawn = { ...trace, marker: { ...trace.marker, color: paint }, visible: !hidden.has(trace.meta.arm) };
    if (trace.fill) drawn.fillcolor = paint + "2e"; // the same colour, nearly transparent
    if (trace.line) drawn.line = { ...trace.line, color: paint };
    if (trace.error_x) drawn.error_x = { ...trace.error_x, color: paint };
    return drawn;
  }

  function themed(layout) {
    const [ink, line] = [color("--ink"), color("--line")];
    const axis = { gridcolor: line, linecolor: line, zerolinecolor: line, fixedrange: true };
    return {
      ...layout,
      annotations: layout.annotations?.map((a) => (a.name === "value" ? { ...a, bgcolor: color("--paper") } : a)),
      font: { color: ink, size: 12, family: getComputedStyle(document.body).fontFamily },
      hoverlabel: { bgcolor: color("--panel"), bordercolor: line, font: { color: ink } },
      xaxis: { ...layout.xaxis, ...axis },
      yaxis: { ...layout.yaxis, ...axis },
    };
  }

  const draw = (node) => {
    const { data, layout } = specs.get(node);
    return Plotly.react(node, data.map(colored), themed(layout), config);
  };
  const drawAll = () => [...specs.keys()].forEach(draw);

  for (const source of document.querySelectorAll("script[data-chart]")) {
    specs.set(document.getElementById(source.dataset.chart), JSON.parse(source.textContent));
  }

  // One chart at a time, so that the page answers while it fills.
  const waiting = [...specs.keys()];
  function drawNext() {
    const node = waiting.shift();
    if (!node) {
      document.documentElement.dataset.drawn = String(specs.size);
      return;
    }
    draw(node);
    setTimeout(drawNext);
  }
  drawNext();

  for (const query of ["(prefers-color-scheme: dark)", "print"]) matchMedia(query).addEventListener("change", drawAll);

  for (const button of document.querySelectorAll("button[data-arm]")) {
    button.addEventListener("click", () => {
      const shown = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(shown));
      hidden[shown ? "delete" : "add"](button.dataset.arm);
      for (const node of specs.keys()) if (node.id.startsWith("chart-curve")) draw(node);
    });
  }

  // While runs are watched: load again, and stay where the reader was. A page in the background waits.
  if (settings.refresh) {
    const key = "kdyolo-report:" + location.pathname;
    const details = [...document.querySelectorAll("details")];
    history.scrollRestoration = "manual";
    const kept = JSON.parse(sessionStorage.getItem(key) || "null");
    if (kept) {
      details.forEach((element, i) => (element.open = kept.open.includes(i)));
      scrollTo(0, kept.top);
    }
    const reload = () => {
      const open = details.flatMap((element, i) => (element.open ? [i] : []));
      sessionStorage.setItem(key, JSON.stringify({ top: scrollY, open }));
      location.reload();
    };
    const later = () => {
      if (!document.hidden) return reload();
      document.addEventListener("visibilitychange", reload, { once: true });
    };
    setTimeout(later, settings.refresh * 1000);
  }
})();
