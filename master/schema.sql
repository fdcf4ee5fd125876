-- The registry (registry.h). PRAGMA user_version is the version of this layout: 3.
-- Numbers of nodes and sets are never used again (AUTOINCREMENT). Roles are bits: 1 source, 2 target, 3 both.
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
INSERT INTO meta VALUES ('epoch', 1);
CREATE TABLE region (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE);
CREATE TABLE "group" (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, region INTEGER NOT NULL REFERENCES region(id));
CREATE TABLE node (number INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, "group" INTEGER NOT NULL REFERENCES "group"(id),
	role INTEGER NOT NULL, capacity INTEGER NOT NULL DEFAULT 8, state TEXT NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'drained', 'revoked')),
	addr TEXT NOT NULL DEFAULT '', serial TEXT NOT NULL, joined INTEGER NOT NULL, last_seen INTEGER NOT NULL DEFAULT 0);
CREATE TABLE revoked (serial TEXT PRIMARY KEY, number INTEGER NOT NULL, name TEXT NOT NULL, at INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE "set" (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, "update" TEXT NOT NULL DEFAULT 'follow',
	open TEXT NOT NULL DEFAULT 'rest', exclude TEXT NOT NULL DEFAULT '[]', local TEXT NOT NULL DEFAULT '[]', default_excludes INTEGER NOT NULL DEFAULT 1);
-- kind: 'n' node number, 'g' group id, 'r' region id, 'a' all (subject 0)
CREATE TABLE set_role ("set" INTEGER NOT NULL REFERENCES "set"(id) ON DELETE CASCADE, kind TEXT NOT NULL, subject INTEGER NOT NULL, role INTEGER NOT NULL,
	PRIMARY KEY ("set", kind, subject)) WITHOUT ROWID;
-- parents set by hand, and the last computed tree (parent NULL: the root)
CREATE TABLE hand ("set" INTEGER NOT NULL REFERENCES "set"(id) ON DELETE CASCADE, node INTEGER NOT NULL REFERENCES node(number) ON DELETE CASCADE,
	parent INTEGER NOT NULL REFERENCES node(number) ON DELETE CASCADE, PRIMARY KEY ("set", node)) WITHOUT ROWID;
CREATE TABLE tree ("set" INTEGER NOT NULL REFERENCES "set"(id) ON DELETE CASCADE, node INTEGER NOT NULL REFERENCES node(number) ON DELETE CASCADE,
	parent INTEGER, PRIMARY KEY ("set", node)) WITHOUT ROWID;
-- where the set is paused; kind as in set_role, without 'n'
CREATE TABLE pause ("set" INTEGER NOT NULL REFERENCES "set"(id) ON DELETE CASCADE, kind TEXT NOT NULL, subject INTEGER NOT NULL, since INTEGER NOT NULL,
	PRIMARY KEY ("set", kind, subject)) WITHOUT ROWID;
-- how links of a class are used (section.h); rate in bytes a second, grid as in routes.json
CREATE TABLE section (name TEXT PRIMARY KEY, compression INTEGER NOT NULL, encryption INTEGER NOT NULL DEFAULT 1,
	"delta" INTEGER NOT NULL DEFAULT 1, rate INTEGER NOT NULL DEFAULT 0, grid TEXT NOT NULL DEFAULT '[]') WITHOUT ROWID;
INSERT INTO section (name, compression) VALUES ('group', 1), ('region', 3), ('international', 6);
CREATE TABLE token (id TEXT PRIMARY KEY, hash TEXT NOT NULL, "group" INTEGER NOT NULL REFERENCES "group"(id) ON DELETE CASCADE, role INTEGER NOT NULL,
	expires INTEGER NOT NULL, uses_left INTEGER NOT NULL, created INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE account (name TEXT PRIMARY KEY, hash TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE audit (id INTEGER PRIMARY KEY AUTOINCREMENT, at INTEGER NOT NULL, account TEXT NOT NULL, address TEXT NOT NULL, action TEXT NOT NULL, detail TEXT NOT NULL);
CREATE TABLE event (id INTEGER PRIMARY KEY AUTOINCREMENT, at INTEGER NOT NULL, level INTEGER NOT NULL, name TEXT NOT NULL, node TEXT NOT NULL, "set" TEXT NOT NULL, text TEXT NOT NULL);
