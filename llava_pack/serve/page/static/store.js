// Keeps conversations in this browser: each message is a record of its own, and what changes is
// changed within a transaction. So two tabs add to the same conversation and destroy nothing.
// Where the browser keeps nothing for pages, the same records live as long as the tab.

import {PLACE} from "./kept.js";

const TABLES = ["conversations", "messages", "pictures"];
const VERSION = 1;

/** Open the records of this server's page; `persistent` says whether they outlive the tab. */
export async function openStore() {
  const name = `llava-pack ${PLACE}`;
  try {
    return new Store(await opened(name), true, name);
  } catch {
    return new Store(new Memory(), false, name);
  }
}

class Store {
  constructor(backend, persistent, name) {
    this.backend = backend;
    this.persistent = persistent;
    this.onFailure = () => {};
    this.onChange = () => {};
    this.channel = new BroadcastChannel(name);
    this.channel.onmessage = (event) => this.onChange(event.data);
  }

  /** Return all conversations, the one that was used last first. */
  async conversations() {
    const all = await this.backend.all("conversations");
    return all.sort((one, other) => other.updated - one.updated);
  }

  conversation(id) {
    return this.backend.get("conversations", id);
  }

  /** Return the messages of a conversation in their order. */
  async messages(conversation) {
    const all = await this.backend.of("messages", conversation);
    return all.sort((one, other) => one.order - other.order || (one.id < other.id ? -1 : 1));
  }

  async picture(id) {
    return (await this.backend.get("pictures", id))?.blob;
  }

  /** Keep a record; return whether the browser did. */
  put(table, record) {
    return this.#write(record.conversation ?? record.id, () => this.backend.put(table, record));
  }

  /** Change some fields of a record that is still there, whatever another tab changed of others. */
  change(table, record, fields) {
    Object.assign(record, fields);
    return this.#write(record.conversation ?? record.id,
      () => this.backend.change(table, record.id, fields));
  }

  /** Take messages out, and return what puts them back. Their pictures stay for that. */
  async takeMessages(messages) {
    for (const each of messages) {
      await this.#write(each.conversation, () => this.backend.remove("messages", each.id));
    }
    return async () => {
      for (const each of messages) await this.put("messages", each);
    };
  }

  /** Take a whole conversation out, and return what puts it back. */
  async takeConversation(id) {
    const taken = {};
    await this.#write(id, async () => Object.assign(taken, await this.backend.take(id)));
    return async () => {
      for (const [table, records] of Object.entries(taken)) {
        for (const each of records) await this.put(table, each);
      }
    };
  }

  async #write(conversation, write) {
    try {
      await write();
    } catch (error) {
      this.onFailure(error);
      return false;
    }
    this.channel.postMessage(conversation);
    return true;
  }
}

function opened(name) {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open(name, VERSION);
    request.onupgradeneeded = () => {
      for (const table of TABLES) {
        const made = request.result.createObjectStore(table, {keyPath: "id"});
        if (table !== "conversations") made.createIndex("conversation", "conversation");
      }
    };
    request.onsuccess = () => resolve(new Database(request.result));
    request.onerror = () => reject(request.error);
    request.onblocked = () => reject(new Error("another tab holds an older version open"));
  });
}

class Database {
  constructor(database) {
    this.database = database;
    database.onversionchange = () => database.close();
  }

  all(table) {
    return this.#run([table], "readonly", (records) => records.getAll());
  }

  of(table, conversation) {
    return this.#run([table], "readonly",
      (records) => records.index("conversation").getAll(conversation));
  }

  get(table, id) {
    return this.#run([table], "readonly", (records) => records.get(id));
  }

  put(table, record) {
    return this.#run([table], "readwrite", (records) => records.put(record));
  }

  remove(table, id) {
    return this.#run([table], "readwrite", (records) => records.delete(id));
  }

  change(table, id, fields) {
    return this.#run([table], "readwrite", (records) => {
      const request = records.get(id);
      request.addEventListener("success", () => {
        if (request.result) records.put({...request.result, ...fields});
      });
      return request;
    });
  }

  /** Take a conversation's records out of every table: all of them, or none. */
  take(id) {
    const taken = {};
    return this.#run(TABLES, "readwrite", (...tables) => {
      for (const records of tables) {
        const held = records.name === "conversations" ? records : records.index("conversation");
        held.getAll(id).onsuccess = (event) => {
          taken[records.name] = event.target.result;
          for (const each of event.target.result) records.delete(each.id);
        };
      }
      return {result: taken};
    });
  }

  #run(tables, mode, work) {
    return new Promise((resolve, reject) => {
      const transaction = this.database.transaction(tables, mode);
      const request = work(...tables.map((table) => transaction.objectStore(table)));
      transaction.oncomplete = () => resolve(request.result);
      transaction.onabort = () => reject(transaction.error);  // as after every error
    });
  }
}

class Memory {
  constructor() {
    this.tables = Object.fromEntries(TABLES.map((table) => [table, new Map()]));
  }

  async all(table) {
    return [...this.tables[table].values()];
  }

  async of(table, conversation) {
    return (await this.all(table)).filter((each) => each.conversation === conversation);
  }

  async get(table, id) {
    return this.tables[table].get(id);
  }

  async put(table, record) {
    this.tables[table].set(record.id, {...record});
  }

  async remove(table, id) {
    this.tables[table].delete(id);
  }

  async take(id) {
    const taken = {};
    for (const table of TABLES) {
      taken[table] = (await this.all(table)).filter((each) => (each.conversation ?? each.id) === id);
      for (const each of taken[table]) this.tables[table].delete(each.id);
    }
    return taken;
  }

  async change(table, id, fields) {
    const record = this.tables[table].get(id);
    if (record) this.tables[table].set(id, {...record, ...fields});
  }
}
