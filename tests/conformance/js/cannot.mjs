// Methods of the clients that no scenario calls, and why. Nothing else excuses a method that was never called.
export const METHODS = {
}
