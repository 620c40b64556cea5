"""The privacy ledger: what one hospital released about one population, and what it may release.

`charges` says what is asked of it, `book` decides, `chain` writes decisions as a hash chain,
`store` keeps the chain in SQLite, `statement` tells it to people.
"""
