-- Access tokens that OAuth 2.0 gave for endpoints, so that a restart need not ask again. A change of `auth` drops them.

CREATE TABLE access_tokens (
    subscription INTEGER PRIMARY KEY REFERENCES subscriptions (seq),
    sealed       BLOB    NOT NULL                -- encrypted JSON: the token, its refresh token, when to renew it
);
