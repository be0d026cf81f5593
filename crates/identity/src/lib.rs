//! Who is who: accounts, organizations, teams, sessions, services; built in or through a UCP.
