// Draw the formulas. Arithmatex marks them: \( \) in text, \[ \] in a paragraph of their own.
document.addEventListener("DOMContentLoaded", () => {
  for (const element of document.querySelectorAll(".arithmatex")) {
    const text = element.textContent.trim();
    katex.render(text.slice(2, -2), element, {
      displayMode: text.startsWith("\\["),
      throwOnError: false, // the others are still drawn; the test of the site finds .katex-error
    });
  }
});
