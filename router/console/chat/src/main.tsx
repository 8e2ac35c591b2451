/**
 * The chat page: an application of the client package and nothing else, so that what is seen here can be built by anybody.
 */
import { render } from "preact";
import { App } from "./app.js";

render(<App />, document.getElementById("page")!);
