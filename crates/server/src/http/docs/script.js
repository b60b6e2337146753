'use strict';
// Shows the API's description. Everything is built from elements and text, never from markup in strings.

const METHODS = ['get', 'post', 'put', 'patch', 'delete'];

function el(name, properties, ...children) {
  const element = document.createElement(name);
  Object.entries(properties || {}).forEach(([key, value]) => {
    if (key === 'class') element.className = value;
    else if (key.startsWith('on')) element.addEventListener(key.slice(2), value);
    else if (value !== undefined && value !== false) element.setAttribute(key, value === true ? '' : value);
  });
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return element;
}

function nameOf(reference) {
  return reference.split('/').pop();
}

// A schema in one line: a name that leads to the schema, or a short word.
function typeOf(schema) {
  if (!schema) return ['any'];
  if (schema.$ref) return [el('a', { href: '#schema-' + nameOf(schema.$ref) }, nameOf(schema.$ref))];
  const several = schema.oneOf || schema.anyOf || schema.allOf;
  if (several) return several.flatMap((one, index) => (index ? [' | '] : []).concat(typeOf(one)));
  if (schema.enum) return [schema.enum.map((value) => JSON.stringify(value)).join(' | ')];
  const kinds = [].concat(schema.type || 'any');
  return kinds.flatMap((kind, index) => {
    const lead = index ? [' | '] : [];
    if (kind === 'array') return lead.concat('list of ', typeOf(schema.items));
    if (kind === 'object' && schema.additionalProperties) {
      return lead.concat('map to ', typeOf(schema.additionalProperties));
    }
    return lead.concat(schema.format && kind !== 'null' ? kind + ' (' + schema.format + ')' : kind);
  });
}

function fields(schema) {
  const needed = new Set(schema.required || []);
  const rows = Object.entries(schema.properties || {}).map(([name, field]) => el('tr', {},
    el('td', {}, name),
    el('td', {}, el('span', { class: 'type' }, typeOf(field)), ' ',
      needed.has(name) ? el('span', { class: 'needed' }, 'needed') : null),
    el('td', {}, field.description || '')));
  return rows.length ? el('table', {}, el('tbody', {}, rows)) : null;
}

function describe(schema) {
  const several = schema.oneOf || schema.anyOf || schema.allOf;
  if (!several) return [fields(schema) || el('p', { class: 'type' }, typeOf(schema))];
  return several.map((one) => el('div', {},
    one.description ? el('p', {}, one.description) : null,
    one.$ref ? el('p', { class: 'type' }, typeOf(one)) : describe(one)));
}

function section(title, ...content) {
  const parts = content.flat(Infinity).filter(Boolean);
  return parts.length ? [el('h3', {}, title), ...parts] : [];
}

function parameters(operation) {
  const rows = (operation.parameters || []).map((one) => el('tr', {},
    el('td', {}, one.name),
    el('td', {}, el('span', { class: 'soft' }, one.in + ' '), el('span', { class: 'type' }, typeOf(one.schema)), ' ',
      one.required ? el('span', { class: 'needed' }, 'needed') : null),
    el('td', {}, one.description || '')));
  return rows.length ? section('Parameters', el('table', {}, el('tbody', {}, rows))) : [];
}

function bodies(content) {
  return Object.entries(content || {}).map(([kind, body]) =>
    el('p', {}, el('span', { class: 'soft' }, kind + ' '), el('span', { class: 'type' }, typeOf(body.schema))));
}

function responses(operation) {
  const rows = Object.entries(operation.responses || {}).map(([status, response]) => el('tr', {},
    el('td', {}, status),
    el('td', {}, bodies(response.content)),
    el('td', {}, response.description || '')));
  return section('Answers', el('table', {}, el('tbody', {}, rows)));
}

// An example of a schema, for a start.
function example(api, schema, depth) {
  if (!schema || depth > 3) return null;
  if (schema.$ref) return example(api, api.components.schemas[nameOf(schema.$ref)], depth + 1);
  const several = schema.oneOf || schema.anyOf || schema.allOf;
  if (several) return example(api, several.find((one) => one.type !== 'null'), depth + 1);
  if (schema.enum) return schema.enum[0];
  const kind = [].concat(schema.type || 'null')[0];
  if (kind === 'object') {
    const needed = schema.required || [];
    return Object.fromEntries(needed.map((name) => [name, example(api, schema.properties[name], depth + 1)]));
  }
  return { string: '', integer: 0, number: 0, boolean: false, array: [] }[kind] ?? null;
}

function ask(api, path, method, operation) {
  const inputs = (operation.parameters || []).map((one) => ({ ...one, input: el('input', { autocomplete: 'off' }) }));
  const content = (operation.requestBody || {}).content || {};
  const json = content['application/json'];
  const start = json ? JSON.stringify(example(api, json.schema, 0) ?? {}, null, 2) : '';
  const body = Object.keys(content).length ? el('textarea', { spellcheck: 'false', 'aria-label': 'Body' }, start) : null;
  const answer = el('pre', { hidden: true, 'aria-live': 'polite' });
  const send = async () => {
    answer.hidden = false;
    answer.textContent = 'Waiting.';
    let target = path;
    const query = new URLSearchParams();
    const headers = {};
    inputs.filter((one) => one.input.value).forEach((one) => {
      if (one.in === 'path') target = target.replace('{' + one.name + '}', encodeURIComponent(one.input.value));
      else if (one.in === 'query') query.append(one.name, one.input.value);
      else headers[one.name] = one.input.value;
    });
    const key = document.getElementById('key').value;
    if (key) headers['X-API-Key'] = key;
    if (body && json) headers['Content-Type'] = 'application/json';
    const text = query.toString();
    try {
      const options = { method: method.toUpperCase(), headers, body: body ? body.value : undefined };
      const response = await fetch(target + (text ? '?' + text : ''), options);
      const received = await response.text();
      answer.textContent = response.status + ' ' + response.statusText + '\n\n' + pretty(received);
    } catch (error) {
      answer.textContent = 'The request failed: ' + error.message;
    }
  };
  return section('Try it', el('div', { class: 'try' },
    inputs.map((one) => el('label', {}, one.name, one.input)),
    body,
    el('div', {}, el('button', { type: 'button', onclick: send }, 'Send')),
    answer));
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

function operationView(api, path, method, operation) {
  const inner = el('div', { class: 'inner' });
  // What is never opened is never built.
  const fill = () => {
    if (inner.childElementCount) return;
    inner.append(
      el('p', {}, operation.description || operation.summary || ''),
      ...parameters(operation),
      ...section('Body', bodies((operation.requestBody || {}).content)),
      ...responses(operation),
      ...(operation.operationId === 'exec_interactive' ? [] : ask(api, path, method, operation)));
  };
  return el('details', { id: operation.operationId, ontoggle: fill, 'data-find': (method + ' ' + path + ' ' + operation.summary).toLowerCase() },
    el('summary', {},
      el('span', { class: 'method ' + method }, method.toUpperCase()),
      el('span', { class: 'path' }, path),
      el('span', { class: 'short' }, operation.summary || '')),
    inner);
}

function schemaView(name, schema) {
  return el('details', { id: 'schema-' + name, 'data-find': name.toLowerCase() },
    el('summary', {}, el('span', { class: 'path' }, name), el('span', { class: 'short' }, (schema.description || '').split('. ')[0])),
    el('div', { class: 'inner' }, schema.description ? el('p', {}, schema.description) : null, describe(schema)));
}

function groups(api) {
  const all = new Map();
  Object.entries(api.paths).forEach(([path, item]) => {
    METHODS.filter((method) => item[method]).forEach((method) => {
      const tag = (item[method].tags || ['other'])[0];
      if (!all.has(tag)) all.set(tag, []);
      all.get(tag).push([path, method, item[method]]);
    });
  });
  return all;
}

function openTarget() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target && target.tagName === 'DETAILS') {
    target.open = true;
    target.scrollIntoView();
  }
}

function find(text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  document.querySelectorAll('[data-find]').forEach((one) => {
    one.hidden = !words.every((word) => one.dataset.find.includes(word));
  });
  document.querySelectorAll('main > section').forEach((one) => {
    one.hidden = !one.querySelector('[data-find]:not([hidden])');
  });
}

function show(api) {
  document.getElementById('version').textContent = api.info.version;
  document.getElementById('about').textContent = api.info.description || '';
  const main = document.getElementById('main');
  const contents = document.getElementById('contents');
  main.replaceChildren();
  groups(api).forEach((operations, tag) => {
    main.append(el('section', {}, el('h2', {}, tag),
      operations.map(([path, method, operation]) => operationView(api, path, method, operation))));
    contents.append(el('h2', {}, tag),
      ...operations.map(([, , operation]) => el('a', { href: '#' + operation.operationId }, operation.operationId)));
  });
  const schemas = Object.entries((api.components || {}).schemas || {});
  main.append(el('section', {}, el('h2', {}, 'Schemas'), schemas.map(([name, schema]) => schemaView(name, schema))));
  contents.append(el('h2', {}, 'Schemas'), ...schemas.map(([name]) => el('a', { href: '#schema-' + name }, name)));
  document.getElementById('find').addEventListener('input', (event) => find(event.target.value));
  window.addEventListener('hashchange', openTarget);
  openTarget();
}

fetch('/openapi.json')
  .then((response) => response.json())
  .then(show)
  .catch((error) => {
    document.getElementById('main').textContent = 'The description could not be loaded: ' + error.message;
  });
