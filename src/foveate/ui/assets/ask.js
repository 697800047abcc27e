// A token of the report was chosen: the page is asked about it, and the answer goes to the report.
const report = () => document.querySelector("#look-report iframe");
addEventListener("message", (e) => {
  const frame = report();
  if (frame && e.source === frame.contentWindow && Number.isInteger(e.data?.token)) trigger("input", { token: e.data.token });
});
watch("value", () => {
  const frame = report();
  if (frame && props.value) frame.contentWindow.postMessage({ maps: JSON.parse(props.value) }, "*");
});
