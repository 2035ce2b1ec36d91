// Draw the formulas, on pages that have some. Arithmatex marks them: \( \) in text, \[ \] in a
// paragraph of their own.
const assets = document.currentScript.src;
document.addEventListener("DOMContentLoaded", () => {
  const formulas = document.querySelectorAll(".arithmatex");
  if (!formulas.length) return;
  const styles = document.createElement("link");
  styles.rel = "stylesheet";
  styles.href = new URL("katex/katex.min.css", assets);
  const script = document.createElement("script");
  script.src = new URL("katex/katex.min.js", assets);
  script.onload = () => {
    for (const element of formulas) {
      const text = element.textContent.trim();
      katex.render(text.slice(2, -2), element, {
        displayMode: text.startsWith("\\["),
        throwOnError: false, // the others are still drawn; the test of the site finds .katex-error
      });
    }
  };
  document.head.append(styles, script);
});
