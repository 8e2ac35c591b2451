/** Who is signed in, and one or two halves of the window. */
import { useCallback, useEffect, useState } from "preact/hooks";
import { Pane } from "./pane.js";
import { clientOf, demoPeople, goTo, keep, place, signedIn, type Person } from "./session.js";
import { SignIn } from "./sign-in.js";

/** What the address says, kept as it changes. */
function usePlace(): [URLSearchParams, (change: Record<string, string | null>) => void] {
  const [shown, setShown] = useState(place);
  useEffect(() => {
    const read = () => setShown(place());
    addEventListener("popstate", read);
    return () => removeEventListener("popstate", read);
  }, []);
  const go = useCallback((change: Record<string, string | null>) => {
    goTo(change, true);
    setShown(place());
  }, []);
  return [shown, go];
}

export function App() {
  const [people, setPeople] = useState(signedIn);
  const [shown, go] = usePlace();
  const [besideAt, setBesideAt] = useState<string | null>(null);
  const me = people.find(({ userId }) => userId === shown.get("as")) ?? people[0];
  const other = people.find(({ userId }) => userId === shown.get("with") && userId !== me?.userId);

  useEffect(() => {
    if (!me || people.length > 1) return;
    let wanted = true;
    demoPeople(me)
      .then((found) => wanted && found.length > 0 && setPeople(keep([me, ...found.filter(({ userId }) => userId !== me.userId)])))
      .catch(() => undefined); // there is somebody to be, at least
    return () => void (wanted = false);
  }, [me, people.length]);

  const add = (person: Person) => setPeople(keep([...people.filter(({ userId }) => userId !== person.userId), person]));
  if (!me) return <SignIn signIn={add} />;

  const conversation = shown.get("c");
  const open = (id: string | null) => {
    go({ c: id });
    if (other && id) setBesideAt(id);
  };
  const addBeside = () => {
    const next = people.find(({ userId }) => userId !== me.userId);
    setBesideAt(conversation);
    if (next) go({ with: next.userId });
    else go({ add: "1" });
  };
  if (shown.get("add")) {
    const leave = () => go({ add: null });
    return <SignIn another signIn={(person) => (add(person), go({ add: null, with: person.userId }))} leave={leave} />;
  }
  return (
    <main class={other ? "halves" : "whole"}>
      <Pane
        key={me.userId}
        client={clientOf(me)}
        me={me.userId}
        people={people}
        conversation={conversation}
        open={open}
        become={(userId) => go({ as: userId, ...(userId === other?.userId && { with: null }) })}
        {...(!other && { addBeside })}
      />
      {other && (
        <Pane
          key={other.userId}
          client={clientOf(other)}
          me={other.userId}
          people={people.filter(({ userId }) => userId !== me.userId)}
          conversation={besideAt ?? conversation}
          open={(id) => setBesideAt(id ?? "")}
          become={(userId) => go({ with: userId })}
          leave={() => go({ with: null })}
        />
      )}
    </main>
  );
}
