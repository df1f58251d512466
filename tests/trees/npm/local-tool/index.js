module.exports = "tool";
