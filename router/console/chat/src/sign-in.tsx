/** Asks for a token. */
import { useState } from "preact/hooks";
import { Logo } from "./icons.js";
import { personOf, type Person } from "./session.js";

interface Props {
  signIn: (person: Person) => void;
  /** Somebody is signed in already. */
  another?: boolean;
  leave?: () => void;
}

export function SignIn({ signIn, another = false, leave }: Props) {
  const [problem, setProblem] = useState("");
  const submit = (event: SubmitEvent) => {
    event.preventDefault();
    const token = new FormData(event.currentTarget as HTMLFormElement).get("token") as string;
    const person = personOf(token);
    if (person) signIn(person);
    else setProblem("This is no token, or it is over. A token has three parts with dots between them.");
  };
  return (
    <main class="sign-in">
      <form onSubmit={submit}>
        <Logo size={48} />
        <h1>{another ? "Another user, side by side" : "Backscroll"}</h1>
        <p>
          Paste a user's token. <code>backscroll token --user ben</code> makes one; <code>serve --demo</code> prints an address that has one
          in it.
        </p>
        <label for="token">Token</label>
        <textarea id="token" name="token" rows={4} autocomplete="off" spellcheck={false} required autofocus aria-describedby="problem" />
        <p id="problem" class="problem" role="alert">
          {problem}
        </p>
        <div class="buttons">
          {leave && (
            <button type="button" class="plain" onClick={leave}>
              Cancel
            </button>
          )}
          <button type="submit" class="primary">
            Continue
          </button>
        </div>
      </form>
    </main>
  );
}
