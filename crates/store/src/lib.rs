//! SQLite: schema, migrations, repositories. Only this crate knows SQL.
