"""Pages of docs/reference/, written from what they describe: the parser, the rules, the targets."""
